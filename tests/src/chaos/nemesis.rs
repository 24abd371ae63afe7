//! Makes faults, one after the other, and counts those that took hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::faults::{Fault, Hit, Made};
use super::{CLASS, Run};
use crate::Result;
use crate::harness::Way;
use crate::random::Random;

/// How long a fault lasts, in milliseconds: longer than it takes to elect another leader.
const LASTS_MS: (usize, usize) = (1_800, 3_800);

/// How long a fault of the network lasts now and then: longer than sessions between nodes outlive silence.
const LASTS_LONG: Duration = Duration::from_secs(13);

/// One in so many faults of the network is long, in runs of at least so many seconds.
const LONG: usize = 6;
const LONG_FROM: Duration = Duration::from_secs(100);

/// The longest pause between two faults, in milliseconds. It may be shorter than it takes to recover.
const PAUSE_MS: usize = 1_500;

/// Whoever disturbs.
pub(super) struct Nemesis {
    run: Arc<Run>,
    random: Random,
    faults: Vec<Fault>,
    has_long: bool,
    /// How often each of the faults was made.
    pub(super) made: BTreeMap<Fault, Made>,
    /// Who was last seen to lead each partition, and how often that was another.
    leaders: BTreeMap<u32, u64>,
    pub(super) leader_changes: u64,
}

impl Nemesis {
    pub(super) fn new(run: &Arc<Run>, faults: Vec<Fault>, random: Random) -> Self {
        let made = faults.iter().map(|fault| (*fault, Made::default())).collect();
        Self {
            run: Arc::clone(run),
            random,
            faults,
            has_long: false,
            made,
            leaders: BTreeMap::new(),
            leader_changes: 0,
        }
    }

    /// Makes faults for so long, and until each of them was made.
    pub(super) async fn work(&mut self, time: Duration) -> Result<()> {
        self.has_long = time >= LONG_FROM;
        let end = Instant::now() + time;
        let mut is_first = true;
        while is_first || Instant::now() < end {
            for fault in self.shuffled() {
                if !is_first && Instant::now() >= end {
                    break;
                }
                let pause = self.random.below(PAUSE_MS) as u64;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.run.journal.begin_silence();
                let hit = self.make(fault).await.map_err(|error| format!("{fault}: {error}"))?;
                self.made.entry(fault).or_default().add(hit, self.run.journal.silence());
                self.run.cluster.check()?;
            }
            is_first = false;
        }
        Ok(())
    }

    /// All faults in some order.
    fn shuffled(&mut self) -> Vec<Fault> {
        let mut faults = self.faults.clone();
        for at in (1..faults.len()).rev() {
            faults.swap(at, self.random.below(at + 1));
        }
        faults
    }

    async fn make(&mut self, fault: Fault) -> Result<Hit> {
        let (victim, is_leader) = self.victim().await;
        let run = Arc::clone(&self.run);
        let cluster = &run.cluster;
        let leads = if is_leader { ", which led," } else { "" };
        let mut hit = Hit { has_fired: true, is_leader, ..Hit::default() };
        hit.what = match fault {
            Fault::Kill => {
                cluster.kill(&[victim]).await?;
                let time = self.last().await;
                cluster.start(&[victim]).await?;
                format!("node {victim}{leads} was killed and away for {time:?}")
            }
            Fault::Blackout => {
                hit.is_leader = true;
                cluster.kill(&cluster.nodes()).await?;
                cluster.start(&cluster.nodes()).await?;
                "all were killed".to_owned()
            }
            Fault::Stop => {
                cluster.stop(victim).await?;
                let time = self.last().await;
                cluster.start(&[victim]).await?;
                format!("node {victim}{leads} was told to stop and away for {time:?}")
            }
            Fault::Pause => {
                cluster.pause(victim)?;
                let time = self.last().await;
                cluster.resume(victim)?;
                format!("node {victim}{leads} was paused for {time:?}")
            }
            Fault::Isolate | Fault::Cut | Fault::OneWay | Fault::Bridge => {
                let before = cluster.network().harm();
                let what = self.disturb(fault, victim);
                let time = self.last_in_network().await;
                cluster.network().heal();
                hit.harm = cluster.network().harm() - before;
                hit.has_fired = hit.harm.is_any();
                format!("node {victim}{leads} {what} for {time:?}")
            }
        };
        Ok(hit)
    }

    /// Does something to the network, and says what.
    fn disturb(&mut self, fault: Fault, victim: u64) -> String {
        let run = Arc::clone(&self.run);
        let network = run.cluster.network();
        let other = self.other_than(victim);
        match (fault, self.random.below(3)) {
            (Fault::Cut, _) => {
                network.isolate(victim, Way::Cut);
                "had no connections".to_owned()
            }
            (Fault::Bridge, _) => {
                network.part(victim, other, Way::Stalled);
                format!("and node {other} did not hear each other")
            }
            (Fault::OneWay, 0) => {
                network.mute(victim, Way::Stalled);
                "was heard by nobody".to_owned()
            }
            (Fault::OneWay, 1) => {
                network.deafen(victim, Way::Stalled);
                "heard nobody".to_owned()
            }
            (Fault::OneWay, _) => {
                network.set(victim, other, Way::Stalled);
                format!("was not heard by node {other}")
            }
            _ => {
                network.isolate(victim, Way::Stalled);
                "was cut off".to_owned()
            }
        }
    }

    /// Half of the time whoever leads, which is where it hurts; otherwise anybody. And whether that one leads.
    async fn victim(&mut self) -> (u64, bool) {
        let partition = u32::try_from(self.random.below(self.run.partitions as usize)).unwrap_or_default();
        let leader = self.run.cluster.presumed_leader(CLASS, partition).await;
        if let Some(leader) = leader {
            let before = self.leaders.insert(partition, leader);
            self.leader_changes += u64::from(before.is_some_and(|before| before != leader));
        }
        let nodes = self.run.cluster.nodes();
        let any = nodes[self.random.below(nodes.len())];
        let victim = if self.random.below(2) == 0 { leader.unwrap_or(any) } else { any };
        (victim, leader == Some(victim))
    }

    fn other_than(&mut self, node: u64) -> u64 {
        let mut others = self.run.cluster.nodes();
        others.retain(|other| *other != node);
        others[self.random.below(others.len())]
    }

    /// Waits for as long as a fault lasts, and answers how long that was.
    async fn last(&mut self) -> Duration {
        let (shortest, longest) = LASTS_MS;
        let time = shortest + self.random.below(longest - shortest);
        let time = Duration::from_millis(time as u64);
        tokio::time::sleep(time).await;
        time
    }

    /// The same for a fault of the network.
    async fn last_in_network(&mut self) -> Duration {
        if self.has_long && self.random.below(LONG) == 0 {
            tokio::time::sleep(LASTS_LONG).await;
            return LASTS_LONG;
        }
        self.last().await
    }
}
