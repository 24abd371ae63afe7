//! The seeds that run with every test, and the planted bugs that they find.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::run::{Ended, run};
use super::{Plant, interposed};

/// Seeds with a story, one a line; what is behind `#` says which.
const KNOWN: &str = include_str!("seeds.txt");

/// Besides those.
const FRESH: Range<u64> = 1..17;

/// A planted bug is found within so many seeds.
const FOUND_WITHIN: u64 = 40;

/// What has to happen somewhere in a corpus.
const HAPPENS: [&str; 15] = [
    "crash",
    "begin",
    "cut",
    "isolate",
    "weather",
    "pre-vote",
    "hand-over",
    "transfer",
    "purge",
    "snapshot",
    "members",
    "compare",
    "read",
    "written",
    "unknown",
];

const SEED: &str = "ODGM_SIMULATION_SEED";
const SEEDS: &str = "ODGM_SIMULATION_SEEDS";
const PLANT: &str = "ODGM_SIMULATION_PLANT";

/// What a run prints when nothing was wrong.
const WELL: &str = "simulated ";

/// How a process that ran one seed ended.
struct Told {
    /// The line that says what happened, if nothing was wrong.
    well: Option<String>,
    all: String,
}

/// Runs a seed in a process of its own.
fn simulate(seed: u64, plant: Option<Plant>) -> Told {
    let mut command = Command::new(std::env::current_exe().expect("a test"));
    command.args(["--exact", "raft::simulation::corpus::one_seed", "--ignored", "--nocapture"]);
    command.env(SEED, seed.to_string()).env(PLANT, plant.map_or("", Plant::name));
    let output = command.output().expect("it runs");
    let all = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let well = all[0].lines().find(|line| line.starts_with(WELL)).map(str::to_owned);
    Told { well: well.filter(|_| output.status.success()), all: all.join("") }
}

/// What came of many seeds.
#[derive(Default)]
struct Results {
    /// Those that went wrong, with what they printed.
    failed: BTreeMap<u64, String>,
    /// How often each kind of thing happened.
    counts: BTreeMap<String, u64>,
}

impl Results {
    fn add(&mut self, seed: u64, told: Told) {
        let Some(well) = told.well else {
            self.failed.insert(seed, told.all);
            return;
        };
        let counts = well.split(' ').filter_map(|word| word.split_once('='));
        for (what, count) in counts.filter(|(what, _)| *what != "seed") {
            *self.counts.entry(what.to_owned()).or_default() += count.parse().unwrap_or(0);
        }
    }

    /// A fault that never came shows nothing.
    fn expect_well(&self) {
        if let Some((seed, told)) = self.failed.first_key_value() {
            let all: Vec<_> = self.failed.keys().collect();
            panic!("{told}\nseeds {all:?} failed; this is {seed}. Again: make simulate SEED={seed}");
        }
        println!("{:?}", self.counts);
        let never: Vec<_> = HAPPENS.iter().filter(|what| !self.counts.contains_key(**what)).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}

/// Runs seeds on all cores.
fn simulate_all(seeds: &[u64], progress: bool) -> Results {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Results::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let told = simulate(*seed, None);
                    results.lock().add(*seed, told);
                    let done = next.load(Ordering::Relaxed).min(seeds.len());
                    if progress && done.is_multiple_of(50) {
                        println!("{done} of {} seeds, {} failed", seeds.len(), results.lock().failed.len());
                    }
                }
            });
        }
    });
    results.into_inner()
}

fn known() -> impl Iterator<Item = u64> {
    let lines = KNOWN.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed"))
}

#[test]
fn what_must_hold_holds_for_every_seed_of_the_corpus() {
    let seeds: Vec<u64> = known().chain(FRESH).collect();
    simulate_all(&seeds, false).expect_well();
}

#[test]
fn a_seed_is_a_run() {
    let told = [(); 2].map(|()| simulate(3, None));
    let [Some(one), Some(other)] = told.each_ref().map(|told| told.well.as_deref()) else {
        panic!("{}", told[0].all);
    };
    assert_eq!(one, other);
    let another = simulate(4, None).well.expect("nothing is wrong");
    assert_ne!(
        one.split_once("trace=").map(|(_, trace)| trace),
        another.split_once("trace=").map(|(_, trace)| trace)
    );
}

/// Expects a planted bug to be found for what it is: by a violation that says one of `kinds`.
///
/// What it leads to may show first. Such a seed has found something, but not what was planted, and the next one is tried.
fn found(plant: Plant, kinds: &[&str]) {
    let mut others = Vec::new();
    for seed in 1..=FOUND_WITHIN {
        let told = simulate(seed, Some(plant));
        if told.well.is_some() {
            continue;
        }
        let what = told.all.lines().find(|line| line.contains(" violation "));
        let what = what.unwrap_or_else(|| panic!("seed {seed} failed without a violation:\n{}", told.all));
        println!("{}: found with seed {seed}: {what}", plant.name());
        if kinds.iter().any(|kind| what.contains(kind)) {
            return;
        }
        others.push(format!("seed {seed}: {what}"));
    }
    panic!(
        "{} is not found by {FOUND_WITHIN} seeds as any of {kinds:?}, but as:\n{}",
        plant.name(),
        others.join("\n")
    );
}

/// What is broken once records that a quorum had are lost, or another log wins.
const LOST: [&str; 2] = [": leader completeness: ", ": commit safety: "];

#[test]
fn a_vote_that_a_crash_forgets_is_found() {
    found(Plant::ForgottenVote, &["election safety: "]);
}

#[test]
fn records_that_a_disk_says_are_durable_and_loses_are_found() {
    found(Plant::LyingDisk, &LOST);
}

#[test]
fn votes_for_a_log_that_is_behind_are_found() {
    found(Plant::BlindVote, &LOST);
}

#[test]
fn reads_that_no_quorum_has_confirmed_are_found() {
    found(Plant::UnconfirmedReads, &["reads: "]);
}

/// Runs the seed in the environment, in this process. What the other tests start.
#[test]
#[ignore = "one of many, which the others start"]
fn one_seed() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let plant = std::env::var(PLANT).unwrap_or_default();
    let plant = Plant::ALL.into_iter().find(|other| other.name() == plant);
    // In memory where that is possible: nothing is lost by it, and a sync costs nothing.
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(parent).expect("a folder");
    // A thread of its own, which has not asked for time or chance yet.
    let simulated = std::thread::scope(|scope| {
        let simulation = scope.spawn(|| {
            interposed::begin(seed);
            run(seed, plant, dir.path())
        });
        simulation.join()
    });
    let Ended { violation, trace, events, acknowledged, counts, tail } = simulated.expect("no panic");
    if let Some(violation) = violation {
        println!("{tail}\nseed {seed}, {events} events: {violation}\nAgain: make simulate SEED={seed}");
        panic!("seed {seed}: {violation}");
    }
    println!("{WELL}seed={seed} events={events} acknowledged={acknowledged} {counts} trace={trace}");
}

/// Runs the seeds in the environment, `FROM..TO`, for as long as that takes.
#[test]
#[ignore = "takes as long as it is told to: make simulate SEEDS=1..1000"]
fn many_seeds() {
    let range = std::env::var(SEEDS).unwrap_or_else(|_| "1..200".to_owned());
    let (from, to) = range.split_once("..").expect("a range, such as 1..1000");
    let seeds: Vec<u64> = (from.parse().expect("a number")..to.parse().expect("a number")).collect();
    simulate_all(&seeds, true).expect_well();
}
