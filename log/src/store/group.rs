//! One group's log in memory: its ends, its chain, and its newest records.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::keys::Link;
use super::options::ReadLimit;
use crate::ids::{GroupId, Offset};
use crate::record::Record;

/// Which part of a log is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first record that is kept; one above `last` if there is none.
    pub first: Offset,
    /// The last record that can be read.
    pub last: Offset,
    /// The last record that is durable.
    pub durable: Offset,
}

impl Bounds {
    pub(super) fn empty() -> Self {
        Self { first: Offset(1), last: Offset::ZERO, durable: Offset::ZERO }
    }
}

/// One group's log.
pub(super) struct Group {
    pub id: GroupId,
    /// Held by whoever changes the log, over the write to RocksDB. Readers never wait for it.
    pub writer: Mutex<Writer>,
    /// What readers see; held for moments only, so never over a write.
    pub state: RwLock<State>,
    durable: AtomicU64,
    epoch: AtomicU64,
}

/// What only a writer needs.
#[derive(Default)]
pub(super) struct Writer {
    /// Records are encoded here before they are copied into the batch.
    pub scratch: Vec<u8>,
    /// The group is gone; whoever still holds it must not write.
    pub removed: bool,
}

/// What readers see.
#[derive(Default)]
pub(super) struct State {
    /// The last record that was trimmed.
    pub floor: Link,
    /// The last record.
    pub head: Link,
    /// The newest records without a gap up to the head.
    tail: VecDeque<Record>,
}

impl Group {
    pub(super) fn new(id: GroupId, floor: Link, head: Link) -> Self {
        Self {
            id,
            writer: Mutex::default(),
            state: RwLock::new(State { floor, head, tail: VecDeque::new() }),
            durable: AtomicU64::new(head.offset.0),
            epoch: AtomicU64::new(0),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        // Durable first: it never passes the head that is read after it, except for a truncation in between.
        let durable = self.durable();
        let state = self.state.read();
        let last = state.head.offset;
        Bounds { first: state.floor.offset.next(), last, durable: durable.min(last) }
    }

    pub(super) fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::Acquire))
    }

    /// Raised by each truncation: a sync that was asked for before it promises nothing about offsets.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Voids what was promised. The caller holds the writer and the watermarks.
    pub(super) fn raise_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn set_durable(&self, offset: Offset) {
        self.durable.store(offset.0, Ordering::Release);
    }
}

impl State {
    /// Records from an offset on, if the first of them is still in memory.
    pub(super) fn cached(&self, from: Offset, limit: ReadLimit) -> Option<Vec<Record>> {
        let oldest = self.tail.front()?.offset;
        let start = usize::try_from(from.0.checked_sub(oldest.0)?).ok()?;
        let mut bytes = 0;
        let within = |(count, record): &(usize, &Record)| {
            let fits = limit.allows(*count, bytes, record.payload.len());
            bytes += record.payload.len();
            fits
        };
        Some(
            self.tail
                .range(start..)
                .enumerate()
                .take_while(within)
                .map(|(_, record)| record.clone())
                .collect(),
        )
    }
}

/// Bounds the memory of all groups' newest records together: the oldest written go first, whichever group they are of.
pub(super) struct TailCache {
    budget: usize,
    used: AtomicUsize,
    /// Groups in the order in which they were written to, each with the last offset of that write.
    order: Mutex<VecDeque<(Arc<Group>, Offset)>>,
}

impl TailCache {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, used: AtomicUsize::new(0), order: Mutex::default() }
    }

    /// Makes new records visible. Their writer is the caller.
    pub(super) fn publish(&self, group: &Arc<Group>, records: &[Record], head: Link) {
        let weight: usize = records.iter().map(Record::weight).sum();
        {
            let mut state = group.state.write();
            state.tail.extend(records.iter().cloned());
            state.head = head;
        }
        self.used.fetch_add(weight, Ordering::Relaxed);
        let mut order = self.order.lock();
        order.push_back((group.clone(), head.offset));
        // Truncated and trimmed records leave their place in the order behind; the second bound keeps those few.
        let most = 1 + self.budget / size_of::<Record>();
        while self.used.load(Ordering::Relaxed) > self.budget || order.len() > most {
            let Some((group, through)) = order.pop_front() else { break };
            self.forget_through(&mut group.state.write(), through);
        }
    }

    /// Drops records at or below an offset.
    pub(super) fn forget_through(&self, state: &mut State, through: Offset) {
        while let Some(record) = state.tail.pop_front_if(|record| record.offset <= through) {
            self.used.fetch_sub(record.weight(), Ordering::Relaxed);
        }
    }

    /// Drops records above an offset.
    pub(super) fn forget_after(&self, state: &mut State, keep: Offset) {
        while let Some(record) = state.tail.pop_back_if(|record| record.offset > keep) {
            self.used.fetch_sub(record.weight(), Ordering::Relaxed);
        }
    }
}
