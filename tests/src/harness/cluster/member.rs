//! One node of a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::transport::Endpoint;

use super::LOOK;
use crate::Result;
use crate::harness::home::Home;
use crate::harness::node::{PATIENCE, spawn};
use crate::process::Process;

/// How long a connection to a node may take; one on this machine that takes longer leads to a paused process.
const CONNECT: Duration = Duration::from_millis(500);

/// A node: its data directory and its address for ever, its process now and then.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) number: u64,
    address: SocketAddr,
    running: Mutex<Option<Running>>,
    /// Dropped last: its files are in use as long as the process is there.
    pub(super) home: Home,
}

#[derive(Debug)]
struct Running {
    process: Process,
    is_paused: bool,
    /// Whether its end is wanted.
    is_ending: bool,
}

impl Member {
    pub(super) fn new(number: u64, home: Home, address: SocketAddr) -> Self {
        Self { number, address, running: Mutex::new(None), home }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true))
    }

    pub(super) fn data(&self) -> PathBuf {
        self.home.data()
    }

    pub(super) fn odgm(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.home.command()?;
        command.env("ODGM_ENDPOINT", format!("http://{}", self.address)).args(arguments);
        Ok(command)
    }

    pub(super) fn output(&self) -> String {
        std::fs::read(self.home.output())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// None while it does not run.
    pub(super) fn id(&self) -> Option<u32> {
        self.running.lock().as_ref().map(|running| running.process.id())
    }

    /// Removes everything that the node knows; it must not run.
    pub(super) fn wipe(&self) -> Result<()> {
        if self.running.lock().is_some() {
            return Err(format!("node {} runs", self.number).into());
        }
        Ok(std::fs::remove_dir_all(self.home.data())?)
    }

    pub(super) fn is_awake(&self) -> bool {
        self.running.lock().as_ref().is_some_and(|running| !running.is_paused && !running.is_ending)
    }

    pub(super) fn spawn(&self) -> Result<()> {
        let mut running = self.running.lock();
        if running.is_some() {
            return Err(format!("node {} runs already", self.number).into());
        }
        let process = spawn(&self.home)?;
        *running = Some(Running { process, is_paused: false, is_ending: false });
        Ok(())
    }

    /// An error if the node does not run, and if its end was not wanted, what it said.
    pub(super) fn check(&self) -> Result<()> {
        self.with(|_| Ok(()))
    }

    /// The same, but a node that nobody has started is all right.
    pub(super) fn check_if_started(&self) -> Result<()> {
        if self.running.lock().is_none() { Ok(()) } else { self.check() }
    }

    pub(super) fn begin_to_kill(&self) -> Result<()> {
        self.with(|running| {
            running.is_ending = true;
            Ok(running.process.begin_to_kill()?)
        })
    }

    pub(super) fn begin_to_stop(&self) -> Result<()> {
        self.with(|running| {
            running.is_ending = true;
            Ok(running.process.begin_to_terminate()?)
        })
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.with(|running| {
            running.process.pause()?;
            running.is_paused = true;
            Ok(())
        })
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.with(|running| {
            running.is_paused = false;
            Ok(running.process.resume()?)
        })
    }

    /// Has it run, whatever was done to it.
    pub(super) fn mend(&self) -> Result<()> {
        if self.running.lock().is_none() {
            return self.spawn();
        }
        self.check()?;
        self.resume()
    }

    /// Waits for a node that is ending. The system may need a moment even after SIGKILL, in which nothing else may block.
    pub(super) async fn ended(&self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let mut running = self.running.lock();
                let Some(now) = running.as_mut() else {
                    return Err(format!("node {} does not run", self.number).into());
                };
                if let Some(status) = now.process.try_wait()? {
                    *running = None;
                    return Ok(status);
                }
            }
            if Instant::now() > deadline {
                self.running.lock().take();
                return Err(format!("node {} did not end within {PATIENCE:?}", self.number).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Does something to the process, which has to be there.
    fn with(&self, act: impl FnOnce(&mut Running) -> Result<()>) -> Result<()> {
        let mut running = self.running.lock();
        let Some(now) = running.as_mut() else {
            return Err(format!("node {} does not run", self.number).into());
        };
        match now.process.try_wait()? {
            Some(status) if !now.is_ending => {
                let said = now.process.output();
                Err(format!("node {} has ended by itself with {status}:\n{said}", self.number).into())
            }
            _ => act(now),
        }
    }
}
