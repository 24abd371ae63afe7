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
    /// Some until the job is dropped.
    work: Option<Arc<dyn WriteOut>>,
    pending: Arc<Pending>,
}

impl Drop for Job {
    /// Done, or never to be done because the thread has gone: either way nobody waits for it any more.
    fn drop(&mut self) {
        // Let go before saying so: whoever waits wants the files closed.
        self.work = None;
        *self.pending.count.lock() -= 1;
        self.pending.done.notify_all();
    }
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
        jobs.send(Job { work: Some(work), pending: Arc::clone(pending) }).is_ok()
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
}

// It owns its end of the queue.
#[allow(clippy::needless_pass_by_value)]
fn run(queue: Receiver<Job>) {
    for job in queue {
        if let Some(work) = &job.work {
            work.write_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl WriteOut for Panics {
        fn write_out(&self) {
            panic!("a bug");
        }
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_panicked() {
        let writer = Writer::start();
        let pending = Arc::new(Pending::default());
        // The first ends the thread; those behind it are dropped with the queue, or refused.
        for _ in 0..3 {
            writer.request(Arc::new(Panics), &pending);
        }
        pending.wait();
        while writer.request(Arc::new(Panics), &pending) {}
        pending.wait();
    }
}
