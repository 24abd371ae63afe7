//! A partition as a bundle.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use odgm_proto::odgm::v1::{BackupRequest, BackupResponse};
use odgm_replication::bundle::BundleError;
use odgm_replication::{BackupError, Consistency};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::services::{Shared, blocking};
use crate::status;

/// The bytes of a bundle.
pub(crate) type Bundle = ReceiverStream<Result<BackupResponse, Status>>;

/// The bytes of one message, and how many messages wait to be sent.
const MESSAGE_BYTES: usize = 256 << 10;
const MESSAGES: usize = 8;

/// Checks what is asked for, and begins to send it.
pub(super) async fn begin(shared: &Arc<Shared>, request: &BackupRequest) -> Result<Bundle, Status> {
    let partition = shared.partition(&request.cls_id, request.partition_id)?;
    let with_log = !request.without_log;
    if with_log && let Some(kept) = partition.missing_from() {
        let error = BackupError::Missing { kept };
        return Err(shared.not_whole(Status::unavailable(error.to_string()), &partition));
    }
    let confirmed = partition.confirm(Consistency::Linearizable).await;
    confirmed.map_err(|error| status::from_read(&error))?;
    let (sender, messages) = mpsc::channel(MESSAGES);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // It keeps a thread and the disk busy for as long as the client takes, so there are only a few at a time.
        let Ok(_permit) = shared.heavy().await else { return };
        let manager = Arc::clone(&shared.manager);
        let mut out = Messages { sender: sender.clone(), gathered: BytesMut::with_capacity(MESSAGE_BYTES) };
        let made = blocking(move || {
            manager.back_up(&partition, with_log, &mut out).map(drop).map_err(|error| failed(&error))
        });
        if let Err(status) = made.await {
            // An error says that the client has gone.
            drop(sender.send(Err(status)).await);
        }
    });
    Ok(ReceiverStream::new(messages))
}

fn failed(error: &BackupError) -> Status {
    match error {
        BackupError::Missing { .. } => Status::unavailable(error.to_string()),
        BackupError::Trimmed => Status::aborted(error.to_string()),
        BackupError::Waiting { .. } => Status::failed_precondition(error.to_string()),
        // Nothing of ours has failed: the client has gone.
        BackupError::Bundle(BundleError::Io(io)) if io.kind() == io::ErrorKind::BrokenPipe => {
            Status::cancelled(io.to_string())
        }
        _ => status::internal(error),
    }
}

/// Sends what is written in messages, and waits while the client does not read.
struct Messages {
    sender: mpsc::Sender<Result<BackupResponse, Status>>,
    gathered: BytesMut,
}

impl Messages {
    fn send(&mut self, data: Bytes) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone");
        self.sender.blocking_send(Ok(BackupResponse { data })).map_err(gone)
    }
}

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        while self.gathered.len() >= MESSAGE_BYTES {
            let message = self.gathered.split_to(MESSAGE_BYTES).freeze();
            self.send(message)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let rest = self.gathered.split().freeze();
        if rest.is_empty() { Ok(()) } else { self.send(rest) }
    }
}
