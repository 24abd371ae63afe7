//! Pages of objects and of entries, in byte order, from a prefix or a cursor on.

use odgm_log::GroupId;
use odgm_projections::View;
use odgm_proto::oprc::{ListObjectsRequest, ListValuesRequest, ObjectMetaEnvelope, ValueEnvelope};
use tonic::Status;

use crate::convert::{Rules, val_data};
use crate::cursor::List;
use crate::identity::Kind;
use crate::status;

/// A page's length where the request leaves it open, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_024;

/// Bytes of values after which a page of entries ends before its limit.
const PAGE_BYTES: usize = 4 << 20;

/// Entries that are read at once, so that a page of large values does not fill the memory.
const CHUNK: usize = 64;

/// The length of a page.
pub(super) fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(MAX_LIMIT) {
        0 => DEFAULT_LIMIT,
        limit => limit.min(MAX_LIMIT),
    }
}

/// A checked request for a page of objects.
pub(super) struct Objects {
    group: GroupId,
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Objects {
    pub(super) fn checked(
        rules: &Rules,
        group: GroupId,
        request: ListObjectsRequest,
    ) -> Result<Self, Status> {
        let prefix = request.object_id_prefix.unwrap_or_default();
        let prefix = rules.identity.check_prefix(Kind::Prefix, prefix)?;
        let list = List { group, object: None, prefix: &prefix };
        let after = request.cursor.map(|cursor| list.decode(&cursor)).transpose()?;
        Ok(Self { group, after, limit: limit(request.limit), prefix })
    }

    pub(super) fn read(&self, view: &View) -> Result<Vec<ObjectMetaEnvelope>, Status> {
        // One more than asked for tells whether there is a next page.
        let objects = view.list_objects(&self.prefix, self.after.as_deref(), self.limit + 1);
        let objects = objects.map_err(|error| status::from_view(&error))?;
        let more = objects.len() > self.limit;
        let mut page: Vec<_> = objects
            .into_iter()
            .take(self.limit)
            .map(|object| ObjectMetaEnvelope {
                object_id: object.id,
                version: object.version,
                entry_count: object.entry_count,
                next_cursor: None,
            })
            .collect();
        if let Some(last) = page.last_mut().filter(|_| more) {
            let list = List { group: self.group, object: None, prefix: &self.prefix };
            last.next_cursor = Some(list.encode(&last.object_id).into());
        }
        Ok(page)
    }
}

/// A checked request for a page of an object's entries.
pub(super) struct Values {
    group: GroupId,
    object: String,
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl Values {
    pub(super) fn checked(rules: &Rules, group: GroupId, request: ListValuesRequest) -> Result<Self, Status> {
        let object = rules.identity.object(request.object_id_str, request.object_id, false)?;
        let prefix = request.key_prefix.unwrap_or_default();
        let prefix = rules.identity.check_prefix(Kind::Prefix, prefix)?;
        let list = List { group, object: Some(&object), prefix: &prefix };
        let after = request.cursor.map(|cursor| list.decode(&cursor)).transpose()?;
        Ok(Self { group, after, limit: limit(request.limit), object, prefix })
    }

    pub(super) fn read(&self, view: &View) -> Result<Vec<ValueEnvelope>, Status> {
        let mut page: Vec<ValueEnvelope> = Vec::new();
        let (mut limit, mut bytes) = (self.limit, 0);
        let more = 'page: loop {
            let after = page.last().map(|last| last.key.as_str()).or(self.after.as_deref());
            // One more than is still wanted tells whether there is a next page.
            let wanted = (limit - page.len() + 1).min(CHUNK);
            let entries = view.list_values(&self.object, &self.prefix, after, wanted);
            let entries = entries.map_err(|error| status::from_view(&error))?;
            let ended = entries.len() < wanted;
            for entry in entries {
                if page.len() == limit {
                    break 'page true;
                }
                bytes += entry.value.data.len();
                if bytes >= PAGE_BYTES {
                    limit = page.len() + 1;
                }
                page.push(ValueEnvelope {
                    key: entry.key,
                    value: Some(val_data(entry.value)),
                    version: entry.version,
                    next_cursor: None,
                });
            }
            if ended {
                break false;
            }
        };
        if let Some(last) = page.last_mut().filter(|_| more) {
            let list = List { group: self.group, object: Some(&self.object), prefix: &self.prefix };
            last.next_cursor = Some(list.encode(&last.key).into());
        }
        Ok(page)
    }
}
