//! Newtypes for the numbers that must never be mixed up.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A replication group: one partition's log. Given out by the catalogue and never reused.
    GroupId(u32)
}

number! {
    /// A record's place in the log of its partition. Offsets begin at 1; 0 means "before the first".
    Offset(u64)
}

number! {
    /// The leader's term under which a record was proposed; 0 for partitions that are not replicated by Raft.
    Term(u64)
}

number! {
    /// A node. String names are mapped to these by the catalogue.
    NodeId(u64)
}

number! {
    /// A moment, in microseconds since the Unix epoch.
    Timestamp(u64)
}

impl GroupId {
    /// The group of the catalogue of collections.
    pub const CATALOGUE: Self = Self(0);

    /// Above every group: it stands for the node itself, and is given to none.
    pub const LAST: Self = Self(u32::MAX);
}

impl Offset {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The offset before this one; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Timestamp {
    /// The wall clock. Only proposers call this; applying a record never does.
    pub fn now() -> Self {
        let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = Self(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        // By as many seconds as the file says, if there is one: tests set a node's clock with it.
        fail::fail_point!("clock", |file| {
            let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
            let seconds: i64 = text.trim().parse().unwrap_or_default();
            Self(now.0.saturating_add_signed(seconds.saturating_mul(1_000_000)))
        });
        now
    }

    /// Whole milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }
}

/// A 32-byte blake3 hash: a link of the chain, or the state of a view.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What stands before the first record.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
