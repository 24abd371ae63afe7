//! Groups in a world in which all that happens is decided by a seed.
//!
//! Everything is real but time, chance, the wires and the moment at which a disk syncs: openraft, our log on RocksDB, our view,
//! our messages. One thread does it all, and [`interposed`] tells it what time it is and what the dice show, so that a seed
//! is a run: the same events in the same order. Each seed runs in a process of its own, because tokio counts the runtimes
//! of a process and draws from that.
//!
//! Nodes crash and lose what was not synced, links are cut in either direction, messages are late, lost, repeated and overtaken,
//! leadership is handed over, members come and go, and snapshots replace the log behind those who are away. At every step
//! [`oracle`] checks what must hold, and at the end, when all is mended, that it heals.
//!
//! What a seed does not decide: when RocksDB's own threads merge files. The views are those of the memory engine, whose
//! snapshots are one file, so that nothing depends on it.

mod clients;
mod corpus;
mod interposed;
mod oracle;
mod run;
mod trace;
mod world;

use odgm_log::GroupId;

pub(crate) use self::interposed::is_simulated;

const GROUP: GroupId = GroupId(5);

/// A bug that is put in to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    /// A crash loses the vote, so that a node may vote twice in a term.
    ForgottenVote,
    /// The disk says that records are durable before they are, and a crash loses them.
    LyingDisk,
    /// Votes are given without a look at how old the candidate's log is.
    BlindVote,
    /// Who believes to lead reads without asking a quorum.
    UnconfirmedReads,
}

impl Plant {
    const ALL: [Self; 4] = [Self::ForgottenVote, Self::LyingDisk, Self::BlindVote, Self::UnconfirmedReads];

    const fn name(self) -> &'static str {
        match self {
            Self::ForgottenVote => "forgotten-vote",
            Self::LyingDisk => "lying-disk",
            Self::BlindVote => "blind-vote",
            Self::UnconfirmedReads => "unconfirmed-reads",
        }
    }
}
