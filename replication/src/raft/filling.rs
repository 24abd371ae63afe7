//! Fetching the records before a snapshot that this replica came back through, from a member that has them.
//!
//! The log grows backwards, from the newest record to the oldest: each piece is checked against the chain with which the
//! log begins, and then is its beginning. So nothing has to be remembered: where the log begins says how far it has come,
//! over restarts too. It ends at the floor, below which retention keeps nothing; there the snapshot before the floor is
//! fetched as well, since from it the past is read. One piece at a time, at the lowest class, and after each a pause as
//! long as the piece took: writes come first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odgm_log::store::{LogStore, ReadLimit};
use odgm_log::{GroupId, NodeId, Offset};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;

use super::machine::Machine;
use super::messages::{
    Request, decode_files, decode_links, decode_piece, decode_records, encode_files, encode_links,
    encode_piece, encode_records,
};
use super::transfers::Transfers;
use super::types::Types;
use super::{FILL_BYTES, FILL_PAUSE, FILL_TIMEOUT};
use crate::encoding::invalid;
use crate::manager::blocking;
use crate::pieces::{Arriving, Outgoing, piece_of};
use crate::source::missing_from;
use crate::transport::{Call, Class, Transport};

/// Makes a replica a whole copy again.
pub(super) struct Filler {
    pub(super) group: GroupId,
    pub(super) node: NodeId,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) machine: Machine,
    pub(super) store: LogStore,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) transfers: Arc<Transfers>,
    /// Where files gather.
    pub(super) snapshots: PathBuf,
}

impl Filler {
    /// Until the member ends. What fails is tried again, at another member.
    pub(super) async fn run(self) {
        let mut installed = self.machine.installed();
        loop {
            installed.mark_unchanged();
            let mut told = String::new();
            while !self.is_whole() {
                // Never closed: the permit only spaces the work out.
                let permit = self.transfers.filling.acquire().await;
                let filled = self.fill().await;
                drop(permit);
                if matches!(filled, Ok(false)) {
                    break;
                }
                if let Err(error) = filled {
                    if told != error.to_string() {
                        told = error.to_string();
                        tracing::info!(group = %self.group, %error, "the past is fetched later");
                    }
                    tokio::time::sleep(FILL_PAUSE).await;
                }
            }
            if installed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether there is nothing to fetch that anybody could have.
    fn is_whole(&self) -> bool {
        self.missing().is_none() && self.missing_base().is_none()
    }

    /// The first record that is kept and not here.
    fn missing(&self) -> Option<Offset> {
        missing_from(&self.store, self.group, &self.machine.view().header())
    }

    /// The snapshot before the floor, where this replica's own past does not begin with one.
    fn missing_base(&self) -> Option<Offset> {
        let view = self.machine.view();
        let at = self.store.bounds(self.group).first.previous();
        (at > Offset::ZERO && at.next() == view.header().floor && !view.snapshots().contains(&at))
            .then_some(at)
    }

    /// Fetches the next part from whoever has it; answers whether there may be more to fetch.
    async fn fill(&self) -> io::Result<bool> {
        let mut failed = None;
        for peer in self.peers() {
            let filled = match (self.missing(), self.missing_base()) {
                (Some(floor), _) => self.fill_from(peer, floor).await,
                (None, Some(base)) => self.base_from(peer, base).await,
                (None, None) => return Ok(true),
            };
            match filled {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failed = Some(io::Error::new(error.kind(), format!("node {peer}: {error}"))),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if self.missing().is_some() {
            return Err(io::Error::other("no member has the records before the snapshot that came last"));
        }
        // Reads of the past begin at the next snapshot of its own then; nothing is wrong.
        tracing::info!(group = %self.group, "no member has the snapshot before the first record");
        Ok(false)
    }

    /// The other members, the leader first.
    fn peers(&self) -> Vec<NodeId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.nodes().map(|(node, _)| *node);
        let mut peers: Vec<u64> = nodes.filter(|node| *node != self.node.0).collect();
        peers.sort_by_key(|node| Some(*node) != metrics.current_leader);
        peers.into_iter().map(NodeId).collect()
    }

    /// Fetches records down to a checkpoint or the floor; answers whether the member had any.
    async fn fill_from(&self, peer: NodeId, floor: Offset) -> io::Result<bool> {
        let below = self.store.bounds(self.group).first;
        let (kept, links) = decode_links(self.ask(peer, Request::Links { below }).await?)?;
        if links.steps.is_empty() {
            tracing::debug!(group = %self.group, %peer, %kept, "it has nothing below {below} either");
            return Ok(false);
        }
        if links.first.0 + links.steps.len() as u64 != below.0 {
            return Err(invalid(format!(
                "what it lists from {} on does not end before {below}",
                links.first
            )));
        }
        let skipped = usize::try_from(floor.0.saturating_sub(links.first.0)).unwrap_or(usize::MAX);
        let mut end = links.steps.len();
        while end > skipped {
            let since = Instant::now();
            let mut bytes = 0;
            let fits = links.steps[skipped..end].iter().rev().take_while(|(_, size)| {
                let is_first = bytes == 0;
                bytes += size;
                is_first || bytes <= FILL_BYTES
            });
            let start = end - fits.count();
            let offset = |step: usize| Offset(links.first.0 + step as u64);
            let (first, last) = (offset(start), offset(end - 1));
            fail::fail_point!("fill-records", |_| Err(io::Error::other("a failpoint")));
            let answer = self.ask(peer, Request::Records { first, last }).await?;
            let records = decode_records(self.group, first, answer)?;
            let size: usize = records.iter().map(|record| record.payload.len()).sum();
            let (store, group, before) = (self.store.clone(), self.group, links.steps[start].0);
            let count = records.len();
            blocking(move || store.prepend(group, before, &records)).await.map_err(io::Error::other)?;
            self.transfers.filled(count, size);
            if self.missing().is_none_or(|now| now > floor) {
                // It is done, or more has been trimmed meanwhile.
                break;
            }
            end = start;
            tokio::time::sleep(since.elapsed()).await;
        }
        if self.missing().is_none() {
            let first = self.store.bounds(self.group).first;
            tracing::info!(group = %self.group, %first, "the records before the snapshot are here again");
        }
        Ok(true)
    }

    /// Fetches the snapshot at an offset; answers whether the member has it.
    async fn base_from(&self, peer: NodeId, at: Offset) -> io::Result<bool> {
        let Some(files) = decode_files(self.ask(peer, Request::Base { at }).await?)? else {
            return Ok(false);
        };
        let name = format!("base-{at}");
        let (parent, count) = (self.snapshots.clone(), files.len());
        let sizes: Vec<u64> = files.iter().map(|file| file.bytes).collect();
        let mut arriving = blocking(move || {
            remove_others(&parent, &name)?;
            Arriving::begin(&parent.join(name), files)
        })
        .await?;
        let held = arriving.held();
        for (file, (bytes, mut from)) in (0..).zip(sizes.into_iter().zip(held)).take(count) {
            loop {
                let since = Instant::now();
                let piece = decode_piece(self.ask(peer, Request::BasePiece { at, file, from }).await?)?;
                from += piece.bytes.len() as u64;
                let is_last = piece.hash.is_some();
                let (taken, taking) = blocking(move || (arriving.take(&piece), arriving)).await;
                arriving = taking;
                self.transfers.received(taken?);
                if is_last {
                    break;
                }
                if from >= bytes {
                    return Err(invalid(format!("file {file} ends at {bytes} bytes without a hash")));
                }
                tokio::time::sleep(since.elapsed()).await;
            }
        }
        let (machine, store, group) = (self.machine.clone(), self.store.clone(), self.group);
        blocking(move || adopt(&machine, &store, group, at, &arriving.finish()?)).await?;
        tracing::info!(group = %self.group, %at, "the snapshot before the first record is here");
        Ok(true)
    }

    async fn ask(&self, peer: NodeId, request: Request) -> io::Result<Bytes> {
        let request = request.encode(self.group)?;
        let (group, class, within) = (self.group, Class::Bulk, FILL_TIMEOUT);
        self.transport.call(Call { to: peer, class, group, request, within }).await.map_err(io::Error::other)
    }
}

/// Takes a snapshot among the view's own, if it is of this log.
fn adopt(machine: &Machine, store: &LogStore, group: GroupId, at: Offset, files: &Path) -> io::Result<()> {
    let view = machine.view();
    let (header, _) = view.state_of_files(files).map_err(io::Error::other)?;
    let chain = store.chain_at(group, at).map_err(io::Error::other)?;
    if (header.group, header.applied, header.chain) != (group, at, chain) {
        return Err(invalid(format!("the snapshot is not the one of this log at {at}")));
    }
    view.adopt_snapshot(files, at).map_err(io::Error::other)?;
    std::fs::remove_dir_all(files)
}

/// Removes what has gathered of other snapshots that were fetched.
fn remove_others(parent: &Path, name: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let other = entry.file_name();
        if other.to_str().is_some_and(|other| other.starts_with("base-") && other != name) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Answers a member that fetches the past. Blocks.
pub(super) fn answer(
    request: &Request,
    machine: &Machine,
    store: &LogStore,
    group: GroupId,
) -> io::Result<Bytes> {
    match *request {
        Request::Links { below } => links(store, group, below),
        Request::Records { first, last } => records(store, group, first, last),
        Request::Base { at } => base(machine, at),
        Request::BasePiece { at, file, from } => base_piece(machine, at, file, from),
        _ => Err(invalid("a question about the past was expected")),
    }
}

/// What stands before the records below an offset.
fn links(store: &LogStore, group: GroupId, below: Offset) -> io::Result<Bytes> {
    let links = store.links_below(group, below).map_err(io::Error::other)?;
    Ok(encode_links(store.bounds(group).first, &links))
}

/// Records that another member is missing.
fn records(store: &LogStore, group: GroupId, first: Offset, last: Offset) -> io::Result<Bytes> {
    let records = usize::try_from((last.0 + 1).saturating_sub(first.0)).unwrap_or(usize::MAX);
    let limit = ReadLimit { records, bytes: FILL_BYTES };
    Ok(encode_records(group, &store.read(group, first, limit).map_err(io::Error::other)?))
}

/// The files of the snapshot at an offset, if there is one.
fn base(machine: &Machine, at: Offset) -> io::Result<Bytes> {
    let view = machine.view();
    if !view.snapshots().contains(&at) {
        return Ok(encode_files(None));
    }
    Ok(encode_files(Some(Outgoing::open(&view.snapshot_dir(at))?.files())))
}

/// A piece of one of them.
fn base_piece(machine: &Machine, at: Offset, file: u32, from: u64) -> io::Result<Bytes> {
    Ok(encode_piece(&piece_of(&machine.view().snapshot_dir(at), file, from)?))
}
