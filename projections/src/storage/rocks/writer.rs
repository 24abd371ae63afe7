//! The thread that writes out what has gathered in front of databases, so that who applies need not.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use parking_lot::{Condvar, Mutex};

/// Something that can be written out.
pub(super) trait WriteOut: Send + Sync {
    /// Writes out; what becomes of it is the object's own affair.
    fn write_out(&self);
}

/// A handle to the thread. It ends when the last handle is dropped.
#[derive(Clone)]
pub(in crate::storage) struct Writer {
    /// None if the system gave no thread.
    jobs: Option<Sender<Job>>,
}

struct Job {
    work: Arc<dyn WriteOut>,
    pending: Arc<Pending>,
}

/// The jobs of one object that are not done.
#[derive(Default)]
pub(super) struct Pending {
    count: Mutex<usize>,
    done: Condvar,
}

impl Writer {
    pub(in crate::storage) fn start() -> Self {
        let (jobs, queue) = channel();
        match thread::Builder::new().name("view-writer".to_owned()).spawn(|| run(queue)) {
            Ok(_) => Self { jobs: Some(jobs) },
            Err(error) => {
                tracing::warn!(%error, "no thread to write views out: who applies does it");
                Self { jobs: None }
            }
        }
    }

    /// Hands a job over; `false` if there is no thread. `pending` counts it until the thread has let go of `work`.
    pub(super) fn request(&self, work: Arc<dyn WriteOut>, pending: &Arc<Pending>) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        *pending.count.lock() += 1;
        let handed_over = jobs.send(Job { work, pending: Arc::clone(pending) }).is_ok();
        if !handed_over {
            pending.finish();
        }
        handed_over
    }
}

impl Pending {
    /// Waits until the thread holds on to nothing.
    pub(super) fn wait(&self) {
        let mut count = self.count.lock();
        while *count > 0 {
            self.done.wait(&mut count);
        }
    }

    fn finish(&self) {
        *self.count.lock() -= 1;
        self.done.notify_all();
    }
}

// It owns its end of the queue.
#[allow(clippy::needless_pass_by_value)]
fn run(queue: Receiver<Job>) {
    for Job { work, pending } in queue {
        work.write_out();
        // Let go before saying so: whoever waits wants the files closed.
        drop(work);
        pending.finish();
    }
}
