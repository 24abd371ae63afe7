//! Proofs: the log is what was written, and the view is what the log says.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use odgm_log::{Offset, Record};
use odgm_projections::{Header, RecordSource, SourceError, Start, View, ViewOptions, rebuild};
use odgm_proto::odgm::v1::{VerifyRequest, VerifyResponse, VerifyResult};
use odgm_replication::{Partition, Records};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::services::{Shared, blocking};

/// The progress of a verification, and a result for each partition.
pub(crate) type Progress = ReceiverStream<Result<VerifyResponse, Status>>;

/// Responses that wait to be sent.
const RESPONSES: usize = 16;

/// How often progress is told.
const INTERVAL: Duration = Duration::from_millis(200);

/// Checks each record and the chain over them.
pub(super) fn log(shared: &Arc<Shared>, request: &VerifyRequest) -> Result<Progress, Status> {
    run(shared, request, |shared, partition, progress| {
        let verified = shared.manager.log().verify(partition.group(), progress);
        verified
            .map(|verified| (verified.last, verified.chain.to_string()))
            .map_err(|error| error.to_string())
    })
}

/// Replays the log into a fresh view and compares the two.
pub(super) fn view(shared: &Arc<Shared>, request: &VerifyRequest) -> Result<Progress, Status> {
    run(shared, request, |shared, partition, progress| {
        let _alone = shared.checking.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = shared.manager.data_dir().view(partition.group()).with_extension("check");
        let compared = compare(shared, partition, &dir, progress);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "a checked view was not removed");
            }
            _ => {}
        }
        compared
    })
}

/// The last offset that was checked and the hash there, or what is wrong.
type Checked = Result<(Offset, String), String>;

fn run(
    shared: &Arc<Shared>,
    request: &VerifyRequest,
    check: impl Fn(&Shared, &Partition, &mut dyn FnMut(Offset, Offset)) -> Checked + Copy + Send + 'static,
) -> Result<Progress, Status> {
    let partitions = shared.partitions(&request.cls_id, request.partition_id)?;
    let (sender, responses) = mpsc::channel(RESPONSES);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // A few at a time: each keeps a core and the disk busy.
        let Ok(_permit) = shared.heavy().await else { return };
        for partition in partitions {
            if sender.is_closed() {
                return;
            }
            let (shared, sender_here) = (Arc::clone(&shared), sender.clone());
            let checked = blocking(move || {
                let checked = check(&shared, &partition, &mut reporter(&partition, &sender_here));
                Ok(result(&partition, checked))
            });
            // An error says that the client has gone; it is noticed before the next partition.
            drop(sender.send(checked.await).await);
        }
    });
    Ok(ReceiverStream::new(responses))
}

/// Tells of progress now and then. It is not waited for: a client that does not read misses some.
fn reporter<'a>(
    partition: &'a Partition,
    sender: &'a mpsc::Sender<Result<VerifyResponse, Status>>,
) -> impl FnMut(Offset, Offset) + 'a {
    let mut told = Instant::now();
    move |checked, last| {
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            let response = VerifyResponse {
                partition_id: partition.index(),
                checked_offset: checked.get(),
                last_offset: last.get(),
                result: None,
            };
            drop(sender.try_send(Ok(response)));
        }
    }
}

fn result(partition: &Partition, checked: Checked) -> VerifyResponse {
    let (last, result) = match checked {
        Ok((last, hash)) => (last, VerifyResult { ok: true, problem: String::new(), hash }),
        Err(problem) => {
            tracing::error!(
                class = partition.class(),
                partition = partition.index(),
                problem,
                "verification failed"
            );
            (partition.head(), VerifyResult { ok: false, problem, hash: String::new() })
        }
    };
    VerifyResponse {
        partition_id: partition.index(),
        checked_offset: last.get(),
        last_offset: last.get(),
        result: Some(result),
    }
}

fn compare(
    shared: &Shared,
    partition: &Partition,
    dir: &Path,
    progress: &mut dyn FnMut(Offset, Offset),
) -> Checked {
    let collection =
        shared.manager.collection(partition.class()).ok_or("the collection was deleted meanwhile")?;
    let (header, serving) = digest(partition.view())?;
    let records = partition.records();
    let first = records.first();
    // The floor of a trimmed log is always the offset of a kept snapshot.
    let start = if first <= Offset(1) { Start::Beginning } else { Start::Snapshot(first.previous()) };
    let options = ViewOptions {
        group: partition.group(),
        engine: collection.definition().options.storage,
        dir: PathBuf::from(dir),
        snapshots: shared.manager.data_dir().snapshots(partition.group()),
        resources: shared.manager.resources().clone(),
    };
    // What a crash during an earlier check may have left.
    remove(dir).map_err(|error| error.to_string())?;
    let log = UpTo { records, last: header.applied };
    let fresh = rebuild(&options, start, &log, progress).map_err(|error| error.to_string())?;
    let (replayed, rebuilt) = digest(&fresh)?;
    let offset = header.applied;
    if replayed.state != header.state {
        let (found, expected) = (header.state, replayed.state);
        return Err(format!(
            "at offset {offset} the view's state hash is {found}, a replay of the log gives {expected}"
        ));
    }
    if rebuilt != serving {
        return Err(format!(
            "at offset {offset} the rows of the view differ from those that a replay of the log gives, under the same \
             state hash {}: remove the view's folder to rebuild it",
            header.state
        ));
    }
    Ok((offset, header.state.to_string()))
}

fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What all of a view's text hashes to, and where the view was at that moment.
fn digest(view: &View) -> Result<(Header, blake3::Hash), String> {
    let mut text = io::BufWriter::with_capacity(64 << 10, blake3::Hasher::new());
    let header = view.dump(&mut text).map_err(|error| error.to_string())?;
    text.flush().map_err(|error| error.to_string())?;
    let hasher = text.into_inner().map_err(|error| error.to_string())?;
    Ok((header, hasher.finalize()))
}

/// The records up to an offset.
struct UpTo<'a> {
    records: Records<'a>,
    last: Offset,
}

impl RecordSource for UpTo<'_> {
    fn first(&self) -> Offset {
        self.records.first()
    }

    fn last(&self) -> Offset {
        self.last
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        let mut records = self.records.read(from, limit)?;
        records.retain(|record| record.offset <= self.last);
        Ok(records)
    }
}
