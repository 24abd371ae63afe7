//! Snapshots on their way in: files in a directory beside the snapshots, until all of them are there and whole.
//!
//! Whoever sends has several pieces under way at once. They are queued in the order in which they came, before anything
//! waits, and whoever gets to work writes all that are queued.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::transfers::Transfers;
use super::types::LogId;
use crate::encoding::invalid;
use crate::manager::blocking;
use crate::pieces::{Arriving, File, Piece};

/// The snapshot that is being received; one at a time.
pub(super) struct Incoming {
    parent: PathBuf,
    current: Mutex<Option<(LogId, Arriving)>>,
    queue: Mutex<VecDeque<Queued>>,
    transfers: Arc<Transfers>,
}

/// A piece that waits to be written.
struct Queued {
    through: LogId,
    piece: Piece,
    done: oneshot::Sender<io::Result<()>>,
}

impl Incoming {
    pub(super) fn new(parent: &Path, transfers: Arc<Transfers>) -> Self {
        let parent = parent.to_path_buf();
        Self { parent, current: Mutex::default(), queue: Mutex::default(), transfers }
    }

    /// Answers how much there is of each file. What has arrived of other snapshots is dropped.
    pub(super) fn begin(&self, through: LogId, files: Vec<File>) -> io::Result<Vec<u64>> {
        let mut current = self.current.lock();
        if let Some((receiving, arriving)) = &*current
            && *receiving == through
            && arriving.is_of(&files)
        {
            // It knows more than the folder tells.
            return Ok(arriving.held());
        }
        let name = format!("incoming-{}-{}", through.leader_id.term, through.index);
        fs::create_dir_all(&self.parent)?;
        for entry in fs::read_dir(&self.parent)? {
            let entry = entry?;
            let other = entry.file_name();
            if other.to_str().is_some_and(|other| other.starts_with("incoming-") && other != name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let arriving = Arriving::begin(&self.parent.join(name), files)?;
        let held = arriving.held();
        *current = Some((through, arriving));
        Ok(held)
    }

    /// Writes a piece. Those that come are queued before this returns, so that they stay in order.
    pub(super) fn write(
        self: &Arc<Self>,
        through: LogId,
        piece: Piece,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let incoming = Arc::clone(self);
        let written = incoming.queue(through, piece);
        async move {
            blocking(move || incoming.work()).await;
            written.await.map_err(io::Error::other)?
        }
    }

    /// Queues a piece; [`Self::work`] has to follow. Pieces are written in the order of these calls.
    fn queue(&self, through: LogId, piece: Piece) -> oneshot::Receiver<io::Result<()>> {
        let (done, written) = oneshot::channel();
        self.queue.lock().push_back(Queued { through, piece, done });
        written
    }

    /// Writes what is queued. Blocks.
    fn work(&self) {
        let mut current = self.current.lock();
        loop {
            // Not in the condition: the lock would be held while the piece is written.
            let next = self.queue.lock().pop_front();
            let Some(Queued { through, piece, done }) = next else { return };
            let written = arriving(&mut current, through).and_then(|arriving| arriving.take(&piece));
            let written = written.map(|new| self.transfers.received(new));
            fail::fail_point!("snapshot-piece-received");
            // Whoever asked may have given up.
            drop(done.send(written));
        }
    }

    /// Checks that all files are whole, and durable, and answers where they are. `release` follows.
    pub(super) fn finish(&self, through: LogId) -> io::Result<PathBuf> {
        arriving(&mut self.current.lock(), through)?.finish()
    }

    /// Removes what was received: it has been taken over.
    pub(super) fn release(&self, through: LogId, dir: &Path) -> io::Result<()> {
        let mut current = self.current.lock();
        match current.take_if(|(receiving, _)| *receiving == through) {
            Some(_) => fs::remove_dir_all(dir),
            None => Ok(()),
        }
    }
}

fn arriving(current: &mut Option<(LogId, Arriving)>, through: LogId) -> io::Result<&mut Arriving> {
    match current {
        Some((receiving, arriving)) if *receiving == through => Ok(arriving),
        _ => Err(invalid(format!("no snapshot through {through} is being received: begin again"))),
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::Hash;

    use super::*;

    #[test]
    fn pieces_are_written_in_the_order_in_which_they_were_queued_and_of_one_snapshot_only() {
        let parent = tempfile::tempdir().expect("a folder");
        let through = LogId::new_term_index(2, 10);
        let files = vec![File { name: "a.sst".to_owned(), bytes: 6 }];
        let piece = |at, bytes: &'static [u8], hash| Piece { file: 0, at, hash, bytes: bytes.into() };
        let whole = Some(Hash(*blake3::hash(b"abcdef").as_bytes()));
        let transfers = Arc::new(Transfers::default());
        let incoming = Incoming::new(parent.path(), Arc::clone(&transfers));
        assert_eq!(incoming.begin(through, files).expect("begun"), [0]);
        let other = incoming.queue(LogId::new_term_index(2, 11), piece(0, b"xyz", None));
        let first = incoming.queue(through, piece(0, b"abc", None));
        let second = incoming.queue(through, piece(3, b"def", whole));
        incoming.work();
        assert!(other.blocking_recv().expect("answered").is_err(), "another snapshot");
        first.blocking_recv().expect("answered").expect("written");
        second.blocking_recv().expect("answered").expect("written");
        assert_eq!(transfers.counts().snapshot_bytes_received, 6);
        let dir = incoming.finish(through).expect("whole");
        assert_eq!(fs::read(dir.join("a.sst")).expect("there"), b"abcdef");
        incoming.release(through, &dir).expect("removed");
        assert!(!dir.exists());

        incoming.begin(through, Vec::<File>::new()).expect("begun");
        incoming.begin(LogId::new_term_index(3, 12), Vec::new()).expect("begun");
        assert!(!parent.path().join("incoming-2-10").exists(), "what nobody will finish is gone");
    }
}
