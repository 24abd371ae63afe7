//! What happened to one object.

use std::pin::Pin;
use std::sync::Arc;
use std::vec;

use futures_util::{Stream, TryStreamExt, stream};
use odgm_log::Offset;
use odgm_projections::{Change, RecordSource};
use odgm_proto::odgm::v1::{Event, HistoryRequest};
use odgm_replication::Partition;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::event::Selection;
use super::past;
use crate::identity::Kind;
use crate::services::{Shared, blocking, list};
use crate::status;

/// Events of one object, read as the client takes them.
pub(crate) type History = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

/// Payload bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Finds the changes; their records are read later, a few at a time.
pub(super) async fn open(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: HistoryRequest,
) -> Result<History, Status> {
    let id = shared.rules.identity.check(Kind::Object, request.object_id)?;
    let partition = shared.readable(metadata, &request.cls_id, request.partition_id).await?;
    let (oldest, limit) = (Offset(request.from_offset), list::limit(request.limit));
    let newest_first = request.newest_first;
    let selection = Selection::all(request.with_values);
    let found = Arc::clone(&partition);
    let changes = blocking(move || {
        let begin = if newest_first { Offset(u64::MAX) } else { oldest };
        let mut changes =
            found.view().history(&id, begin, newest_first, limit).map_err(|error| past(&error))?;
        changes.retain(|change| change.offset >= oldest);
        Ok(changes)
    });
    let reader =
        Reader { shared: Arc::clone(shared), changes: changes.await?.into_iter(), partition, selection };
    let chunks = stream::try_unfold(reader, |mut reader| async {
        if reader.changes.len() == 0 {
            return Ok::<_, Status>(None);
        }
        blocking(move || Ok(Some((reader.chunk()?, reader)))).await
    });
    Ok(Box::pin(chunks.map_ok(|events| stream::iter(events.into_iter().map(Ok))).try_flatten()))
}

struct Reader {
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    changes: vec::IntoIter<Change>,
    selection: Selection,
}

impl Reader {
    fn chunk(&mut self) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            let Some(change) = self.changes.next() else { break };
            let record = self.partition.records().get(change.offset);
            let record =
                record.map_err(|error| self.shared.past(status::internal(error), &self.partition))?;
            bytes += record.weight();
            let payload = record.decode().map_err(status::internal)?;
            events.extend(self.selection.select(self.partition.index(), change, payload));
        }
        Ok(events)
    }
}
