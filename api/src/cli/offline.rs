//! `odgm log` and `odgm view`: the data directory of a node that is not running.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use odgm_log::{
    GroupId, Offset,
    store::{LogStore, ReadLimit},
};
use odgm_replication::{DataDir, StoppedError, StoppedNode, data_dir};
use serde::Serialize;

use super::{
    address::{ClassAddress, PartitionAddress},
    client::Context,
    error::Error,
    output::{Human, Output, Style, Table},
    partition::DumpPiece,
    progress,
    record::{self, RecordView},
    verify::{self, Proof},
};

/// What to do with logs.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Print the records of a partition's log
    Dump {
        /// The partition; _catalogue/0 is the catalogue of collections
        #[arg(value_name = "CLASS/PARTITION")]
        address: PartitionAddress,
        #[command(flatten)]
        range: record::Range,
        #[command(flatten)]
        directory: Directory,
    },
    /// Recompute the chain of each log and compare it with what is stored
    Verify {
        /// A collection or a partition [default: every log]
        #[arg(value_name = "CLASS[/PARTITION]")]
        address: Option<ClassAddress>,
        #[command(flatten)]
        directory: Directory,
    },
}

/// What to do with views.
#[derive(Debug, Subcommand)]
pub(crate) enum ViewCommand {
    /// Throw views away and make them again from the log
    Rebuild {
        /// The collection or one partition of it
        #[arg(value_name = "CLASS[/PARTITION]")]
        address: ClassAddress,
        #[command(flatten)]
        directory: Directory,
    },
    /// Print a view as text: equal views give equal bytes
    Dump {
        /// The partition
        #[arg(value_name = "CLASS/PARTITION")]
        address: PartitionAddress,
        #[command(flatten)]
        directory: Directory,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The data directory of a node that is not running
    #[arg(long, value_name = "DIR", env = "ODGM_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
}

/// Help below the commands of `odgm log`.
pub(crate) const LOG_HELP: &str = "Examples:\n  \
    odgm log verify --data-dir ./data\n  \
    odgm log dump flights/3 --data-dir ./data --from 100 --limit 10\n\n\
    On a running node: odgm partition verify, odgm partition log.";

/// Help below the commands of `odgm view`.
pub(crate) const VIEW_HELP: &str = "Examples:\n  \
    odgm view rebuild flights --data-dir ./data\n  \
    odgm view dump flights/3 --data-dir ./data > view.txt\n\n\
    On a running node: odgm partition verify-view, odgm partition dump.";

/// `odgm log`.
pub(crate) fn log(command: LogCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        LogCommand::Dump { address, range, directory } => {
            let node = directory.open("odgm partition log")?;
            let group = node.group(&address.class, address.partition.into()).map_err(refused)?;
            dump_log(node.log(), group, range, context)
        }
        LogCommand::Verify { address, directory } => {
            let proofs = verify_logs(address, &directory)?;
            verify::conclude(proofs, context)
        }
    }
}

/// `odgm view`.
pub(crate) fn view(command: ViewCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        ViewCommand::Rebuild { address, directory } => {
            let node = directory.open("odgm partition verify-view")?;
            let partitions = partitions(&node, &address)?;
            let rebuilt = rebuild(&node, &address.class, &partitions)?;
            context.output.document(&Rebuilds { rebuilt })
        }
        ViewCommand::Dump { address, directory } => {
            let node = directory.open("odgm partition dump")?;
            dump_view(&node, &address, context)
        }
    }
}

impl Directory {
    /// Opens it; on a running node the error names the command that works there.
    fn open(&self, online: &str) -> Result<StoppedNode, Error> {
        StoppedNode::open(&self.data_dir).map_err(|error| in_use(error, online))
    }
}

fn in_use(error: StoppedError, online: &str) -> Error {
    match error {
        StoppedError::DataDir(data_dir::Error::InUse(path)) => Error::Conflict(format!(
            "a node is running on {}: stop it first, or ask the node itself with `{online}`",
            path.display()
        )),
        error => refused(error),
    }
}

// For `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn refused(error: StoppedError) -> Error {
    match error {
        StoppedError::NoPartition { .. } | StoppedError::DataDir(data_dir::Error::Missing(_)) => {
            Error::NotFound(error.to_string())
        }
        _ => Error::Failed(error.to_string()),
    }
}

/// The partitions that an address names.
fn partitions(node: &StoppedNode, address: &ClassAddress) -> Result<Vec<u32>, Error> {
    let only = address.partition.map(u32::from);
    // Also refuses a class that does not exist, by listing what there is.
    node.group(&address.class, only.unwrap_or(0)).map_err(refused)?;
    Ok(match (only, node.collections().get(&address.class)) {
        (None, Some(stored)) => (0_u32..).take(stored.groups.len()).collect(),
        (only, _) => only.into_iter().collect(),
    })
}

fn dump_log(
    log: &LogStore,
    group: GroupId,
    range: record::Range,
    context: &mut Context,
) -> Result<(), Error> {
    let bounds = log.bounds(group);
    let mut from = Offset(range.from).max(bounds.first);
    let mut left = if range.limit == 0 { u64::MAX } else { range.limit };
    while left > 0 && from <= bounds.last {
        let records =
            log.read(group, from, ReadLimit::default()).map_err(|error| Error::Failed(error.to_string()))?;
        let Some(last) = records.last() else { break };
        from = last.offset.next();
        for record in records {
            context.output.item(&RecordView::of(&record)?)?;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    context.output.flush()
}

/// Checks logs by the names of their partitions; where the catalogue itself cannot be read, by their groups.
fn verify_logs(address: Option<ClassAddress>, directory: &Directory) -> Result<Vec<Proof>, Error> {
    let online = "odgm partition verify";
    let Some(address) = address else {
        return match StoppedNode::open(&directory.data_dir) {
            Ok(node) => {
                let named = node.collections().iter().flat_map(|(class, stored)| {
                    stored.groups.iter().enumerate().map(move |(at, group)| (format!("{class}/{at}"), *group))
                });
                Ok(named.map(|(name, group)| verify_log(node.log(), name, group)).collect())
            }
            Err(error @ (StoppedError::DataDir(_) | StoppedError::Log(_))) => Err(in_use(error, online)),
            Err(error) => {
                eprintln!(
                    "odgm: the catalogue cannot be read, so logs go by the numbers of their groups: {error}"
                );
                verify_groups(directory)
            }
        };
    };
    let node = directory.open(online)?;
    let mut proofs = Vec::new();
    for partition in partitions(&node, &address)? {
        let group = node.group(&address.class, partition).map_err(refused)?;
        proofs.push(verify_log(node.log(), format!("{}/{partition}", address.class), group));
    }
    Ok(proofs)
}

fn verify_groups(directory: &Directory) -> Result<Vec<Proof>, Error> {
    let failed = |error: &dyn std::error::Error| Error::Failed(error.to_string());
    let data = DataDir::open_existing(&directory.data_dir).map_err(|error| failed(&error))?;
    let log = LogStore::open_read_only(&data.log()).map_err(|error| failed(&error))?;
    Ok(log.groups().into_iter().map(|group| verify_log(&log, format!("group {group}"), group)).collect())
}

fn verify_log(log: &LogStore, name: String, group: GroupId) -> Proof {
    let bar = progress::steps(0, "records");
    bar.set_message(name.clone());
    let verified = log.verify(group, &mut |checked, last| {
        bar.set_length(last.get());
        bar.set_position(checked.get());
    });
    bar.finish_and_clear();
    match verified {
        Ok(verified) => Proof {
            name,
            ok: true,
            last_offset: verified.last.get(),
            hash: verified.chain.to_string(),
            problem: None,
        },
        Err(error) => Proof {
            name,
            ok: false,
            last_offset: log.bounds(group).last.get(),
            hash: String::new(),
            problem: Some(error.to_string()),
        },
    }
}

/// Makes the views of partitions again, as many at once as there are cores.
fn rebuild(node: &StoppedNode, class: &str, partitions: &[u32]) -> Result<Vec<Rebuilt>, Error> {
    let last = |partition: &u32| {
        let group = node.group(class, *partition).map_err(refused)?;
        Ok(node.log().bounds(group).last.get())
    };
    let bar = progress::steps(partitions.iter().map(last).sum::<Result<_, Error>>()?, "records");
    bar.set_message(class.to_owned());
    let queue = Mutex::new(partitions.iter());
    let work = || {
        let mut rebuilt = Vec::new();
        while let Some(partition) = {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.next()
        } {
            rebuilt.push(rebuild_one(node, class, *partition, &bar)?);
        }
        Ok(rebuilt)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(partitions.len());
    let mut rebuilt = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let died = |_| Err(Error::Failed("a rebuild ended by a panic".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    bar.finish_and_clear();
    rebuilt.sort_by_key(|rebuilt| rebuilt.number);
    Ok(rebuilt)
}

fn rebuild_one(node: &StoppedNode, class: &str, partition: u32, bar: &ProgressBar) -> Result<Rebuilt, Error> {
    let mut done = 0;
    let mut progress = |applied: Offset, _: Offset| {
        bar.inc(applied.get() - done);
        done = applied.get();
    };
    let header = node.rebuild_view(class, partition, &mut progress).map_err(refused)?;
    Ok(Rebuilt {
        number: partition,
        partition: format!("{class}/{partition}"),
        applied_offset: header.applied.get(),
        objects: header.objects,
        entries: header.entries,
        state_hash: header.state.to_string(),
    })
}

fn dump_view(node: &StoppedNode, address: &PartitionAddress, context: &mut Context) -> Result<(), Error> {
    let bar = progress::steps(0, "records");
    let view = node
        .view(&address.class, address.partition.into(), &mut |applied, last| {
            bar.set_length(last.get());
            bar.set_position(applied.get());
        })
        .map_err(refused)?;
    bar.finish_and_clear();
    let mut sink = DumpSink { output: &mut context.output, lines: Vec::new(), refused: None };
    let dumped = view.dump(&mut sink);
    sink.finish()?;
    dumped.map(drop).map_err(|error| Error::Failed(error.to_string()))
}

/// Standard output as a writer of text, which keeps its own errors apart from those of the view.
struct DumpSink<'a> {
    output: &'a mut Output,
    /// What waits for the end of its line.
    lines: Vec<u8>,
    refused: Option<Error>,
}

impl DumpSink<'_> {
    const PIECE: usize = 64 << 10;

    fn pass_on(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.item(&DumpPiece { text: String::from_utf8_lossy(bytes).into_owned() })
    }

    fn finish(mut self) -> Result<(), Error> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let rest = std::mem::take(&mut self.lines);
        if !rest.is_empty() {
            self.pass_on(&rest)?;
        }
        self.output.flush()
    }
}

impl Write for DumpSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(bytes);
        if self.lines.len() >= Self::PIECE
            && let Some(end) = self.lines.iter().rposition(|byte| *byte == b'\n')
        {
            let rest = self.lines.split_off(end + 1);
            let whole = std::mem::replace(&mut self.lines, rest);
            if let Err(error) = self.pass_on(&whole) {
                self.refused = Some(error);
                return Err(io::Error::other("standard output takes no more"));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Serialize)]
struct Rebuilds {
    rebuilt: Vec<Rebuilt>,
}

#[derive(Clone, Serialize)]
struct Rebuilt {
    #[serde(skip)]
    number: u32,
    partition: String,
    applied_offset: u64,
    objects: u64,
    entries: u64,
    state_hash: String,
}

impl Human for Rebuilds {
    fn human(&self, style: Style) -> String {
        let mut table = Table::new(&["PARTITION", "APPLIED", "OBJECTS", "ENTRIES", "STATE"]);
        for rebuilt in &self.rebuilt {
            table.row(vec![
                rebuilt.partition.as_str().into(),
                rebuilt.applied_offset.into(),
                rebuilt.objects.into(),
                rebuilt.entries.into(),
                rebuilt.state_hash.as_str().into(),
            ]);
        }
        table.render(style)
    }
}
