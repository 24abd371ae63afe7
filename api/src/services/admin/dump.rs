//! The records of a log and the text of a view.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt, stream};
use odgm_log::Offset;
use odgm_log::store::{ReadError, ReadLimit};
use odgm_projections::RecordSource;
use odgm_proto::odgm::v1::{DumpLogRequest, DumpViewRequest, DumpViewResponse, LogRecord};
use odgm_replication::Partition;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::record_json::log_record;
use crate::services::{Shared, blocking};
use crate::status;

/// Records, read as the client takes them.
pub(crate) type Log = Pin<Box<dyn Stream<Item = Result<LogRecord, Status>> + Send>>;

/// The text of a view, in pieces.
pub(crate) type Text = Pin<Box<dyn Stream<Item = Result<DumpViewResponse, Status>> + Send>>;

/// Records and payload bytes that are read at once.
const CHUNK: ReadLimit = ReadLimit { records: 256, bytes: 1 << 20 };

/// The size of one piece of text, in bytes, and how many wait to be sent.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 4;

/// The records from an offset on, up to the newest at this moment.
pub(super) fn log(shared: &Shared, request: &DumpLogRequest) -> Result<Log, Status> {
    let partition = shared.partition(&request.cls_id, request.partition_id)?;
    let records = partition.records();
    // Without a place it begins where the log does.
    let from = if request.from_offset == 0 { records.first() } else { Offset(request.from_offset) };
    let last = match request.limit {
        0 => records.last(),
        limit => records.last().min(Offset(from.get().saturating_add(limit - 1))),
    };
    let chunks = stream::try_unfold((partition, from), move |(partition, from)| async move {
        if from > last {
            return Ok::<_, Status>(None);
        }
        let (records, next, partition) = blocking(move || {
            let (records, next) = chunk(&partition, from, last)?;
            Ok((records, next, partition))
        })
        .await?;
        Ok(Some((records, (partition, next))))
    });
    Ok(Box::pin(chunks.map_ok(|records| stream::iter(records.into_iter().map(Ok))).try_flatten()))
}

fn chunk(partition: &Partition, from: Offset, last: Offset) -> Result<(Vec<LogRecord>, Offset), Status> {
    let records = partition.records().read_limited(from, CHUNK).map_err(|error| match error {
        ReadError::BelowFloor { .. } => Status::out_of_range(error.to_string()),
        _ => status::internal(error),
    })?;
    let next = records.last().map_or(last, |record| record.offset).next();
    let shown = records.iter().filter(|record| record.offset <= last).map(log_record);
    Ok((shown.collect::<Result<_, _>>().map_err(status::internal)?, next))
}

/// The text of a view, from one moment.
pub(super) fn view(shared: &Arc<Shared>, request: &DumpViewRequest) -> Result<Text, Status> {
    let partition = shared.partition(&request.cls_id, request.partition_id)?;
    let (sender, pieces) = mpsc::channel(PIECES);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // A dump waits for its client on a thread that may block, so there are only a few at a time.
        let Ok(_permit) = shared.heavy().await else { return };
        let mut text = Pieces { sender: sender.clone(), gathered: Vec::with_capacity(2 * PIECE_BYTES) };
        let dumped = blocking(move || {
            partition.view().dump(&mut text).map_err(status::internal)?;
            text.flush().map_err(status::internal)
        });
        if let Err(status) = dumped.await {
            // An error says that the client has gone.
            drop(sender.send(Err(status)).await);
        }
    });
    Ok(Box::pin(ReceiverStream::new(pieces)))
}

/// Sends what is written in pieces of whole characters, and waits while the client does not read.
struct Pieces {
    sender: mpsc::Sender<Result<DumpViewResponse, Status>>,
    gathered: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let whole = std::str::from_utf8(&self.gathered).map_or_else(|error| error.valid_up_to(), str::len);
        let rest = self.gathered.split_off(whole);
        let text =
            String::from_utf8(std::mem::replace(&mut self.gathered, rest)).map_err(io::Error::other)?;
        if text.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(DumpViewResponse { text })).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
