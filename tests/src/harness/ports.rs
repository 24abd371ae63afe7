//! Ports that a node gets again after a restart.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, TcpListener};

use crate::Result;
use crate::random::Random;

/// The lowest port that is taken.
const LOWEST: u16 = 10_000;

/// Where the system's own choices begin if it does not say.
const FIRST_EPHEMERAL: u16 = 32_768;

/// How often ports are tried for each one that is wanted.
const TRIES: usize = 100;

/// Finds free ports on the loopback interface. They are not held: whoever wants one binds it soon.
///
/// None of them is one that the system hands out by itself. While a node is down, its port would otherwise go to
/// any connection that is made meanwhile, and the node could not come back.
///
/// # Errors
/// When there are not so many.
pub(super) fn find(count: usize) -> Result<Vec<u16>> {
    let range = usize::from(first_ephemeral().saturating_sub(LOWEST));
    let mut random = Random::new(RandomState::new().hash_one(std::process::id()));
    let mut held = Vec::with_capacity(count);
    for _ in 0..TRIES * count {
        if held.len() == count {
            break;
        }
        // Where all ports are the system's, it may choose.
        let port = if range == 0 { 0 } else { LOWEST + u16::try_from(random.below(range))? };
        // All are held until the last is found, so that none is found twice.
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    if held.len() < count {
        return Err(format!("{count} free ports were wanted, {} found", held.len()).into());
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The first port that the system gives to connections.
fn first_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(FIRST_EPHEMERAL)
}
