//! Child processes that never outlive their owner.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running child. Both of its outputs go to a file; dropping it kills it with SIGKILL and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command` with its outputs appended to the file `output`.
    ///
    /// # Errors
    /// When the output file cannot be opened or the program cannot be run; the message names it.
    pub fn spawn(name: &str, mut command: Command, output: &Path) -> crate::Result<Self> {
        let log = File::options().create(true).append(true).open(output)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, output: output.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything the process has written so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.output)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// SIGKILL, then waits until the process is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGKILL, without waiting; a process that is paused ends too.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn begin_to_kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// SIGTERM, without waiting.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn begin_to_terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGINT, as by Ctrl-C, without waiting.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn begin_to_interrupt(&self) -> io::Result<()> {
        self.signal(Signal::INT)
    }

    /// SIGSTOP: the process does nothing, and does not know it, until it is resumed.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// SIGTERM, then waits for the process to end by itself.
    ///
    /// # Errors
    /// When it has not ended within `patience`; it is killed then.
    pub fn terminate(&mut self, patience: Duration) -> crate::Result<ExitStatus> {
        self.begin_to_terminate()?;
        self.wait(patience)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it has not ended within `patience`; it is killed then.
    pub fn wait(&mut self, patience: Duration) -> crate::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill()?;
                return Err(
                    format!("{} did not end within {patience:?}:\n{}", self.name, self.output()).into()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when the process has already been waited for.
        let _ = self.kill();
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminate {
            Some(terminate) => terminate.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminated => (),
    }
}
