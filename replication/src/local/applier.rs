//! The thread that applies what is durable and answers, beside the worker that appends and syncs what comes next.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::lane::{Append, Lane};

/// Appends that may wait to be applied, over all lanes of a worker. When there are more, the worker waits too, and
/// proposals gather into larger batches.
const APPENDS_WAITING: usize = 2;

/// The worker's end. The thread ends when this is dropped, or says so.
pub(super) struct Applier {
    jobs: Sender<Job>,
}

enum Job {
    Apply(Arc<Lane>, Append),
    /// Say when all that came before is applied.
    Drain(Vec<Sender<()>>),
    /// End the thread.
    Stop,
}

impl Applier {
    pub(super) fn start(name: String) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = crossbeam_channel::bounded(APPENDS_WAITING);
        let thread = std::thread::Builder::new().name(name).spawn(move || run(&queue))?;
        Ok((Self { jobs }, thread))
    }

    /// Applies an append after all that was given before.
    pub(super) fn apply(&self, lane: &Arc<Lane>, append: Append) {
        lane.begin_applying();
        // The thread outlives the worker, which holds this; a job that is dropped answers by itself.
        drop(self.jobs.send(Job::Apply(Arc::clone(lane), append)));
    }

    /// Tells who waits when everything that was given before is applied.
    pub(super) fn drain(&self, waiting: Vec<Sender<()>>) {
        // An error drops them, which tells them as well.
        drop(self.jobs.send(Job::Drain(waiting)));
    }

    /// Ends the thread when everything that was given before is applied.
    pub(super) fn stop(&self) {
        // An error says that it has ended.
        drop(self.jobs.send(Job::Stop));
    }
}

fn run(queue: &Receiver<Job>) {
    for job in queue {
        match job {
            Job::Apply(lane, append) => {
                append.apply(&lane);
                lane.end_applying();
            }
            Job::Drain(waiting) => {
                for done in waiting {
                    // Whoever waited may have given up.
                    let _ = done.send(());
                }
            }
            Job::Stop => return,
        }
    }
}
