//! A running node.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::clients::{Connection, Objects};
use super::command::Ran;
use super::home::Home;
use crate::Result;
use crate::process::Process;

/// How long a node may take to start or to stop on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A node that serves. Dropping it kills the process with SIGKILL.
#[derive(Debug)]
pub struct Node<'a> {
    home: &'a Home,
    process: Process,
    address: SocketAddr,
    channel: Channel,
}

impl<'a> Node<'a> {
    pub(super) async fn start(home: &'a Home) -> Result<Self> {
        let mut node = Self::listen(home).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut health = HealthClient::new(node.channel());
        while health.check(HealthCheckRequest::default()).await?.into_inner().status()
            != ServingStatus::Serving
        {
            still_starting(&mut node.process, deadline)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(node)
    }

    pub(super) async fn listen(home: &'a Home) -> Result<Self> {
        // A port file of an earlier run would be taken for this one's.
        let _ = fs::remove_file(home.port_file());
        let mut process = spawn(home)?;
        let deadline = Instant::now() + PATIENCE;
        let port = loop {
            if let Some(port) =
                fs::read_to_string(home.port_file()).ok().and_then(|port| port.trim().parse().ok())
            {
                break port;
            }
            still_starting(&mut process, deadline)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { home, process, address, channel })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A connection that is already open, for clients of the test's own.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Clients of every service.
    pub fn connection(&self) -> Connection {
        Connection::new(self.channel.clone())
    }

    /// The objects of one partition of a collection.
    pub fn objects(&self, class: &str, partition: u32) -> Objects {
        self.connection().objects(class, partition)
    }

    /// Everything it has logged so far, and what nodes before it on the same data directory have.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// kill -9.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        Ok(())
    }

    /// SIGTERM, and waits for the node to end in order.
    ///
    /// # Errors
    /// When it ends with another code than 0, or not within a minute.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        Err(format!("a node that was told to stop ended with {status}").into())
    }

    /// Waits for a node that stops by itself.
    ///
    /// # Errors
    /// When it is still there after a minute.
    pub fn ended(mut self) -> Result<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    /// Runs `odgm` against this node.
    ///
    /// # Errors
    /// When the program cannot be run; how it ends is for the caller to judge.
    pub fn odgm(&self, arguments: &[&str]) -> Result<Ran> {
        Ran::of(self.odgm_command(arguments)?)
    }

    /// The same, to be run by the caller.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn odgm_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.home.command()?;
        command.env("ODGM_ENDPOINT", format!("http://{}", self.address)).args(arguments);
        Ok(command)
    }
}

/// How a node ended that did not want to serve.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said this time.
    pub output: String,
}

impl Refusal {
    pub(super) fn of(home: &Home) -> Result<Self> {
        let earlier = fs::metadata(home.output()).map_or(0, |file| file.len());
        let mut process = spawn(home)?;
        let status = process.wait(PATIENCE)?;
        let said = process.output();
        let output =
            usize::try_from(earlier).ok().and_then(|earlier| said.get(earlier..)).unwrap_or(&said).to_owned();
        Ok(Self { status, output })
    }
}

/// Starts `odgm serve` without waiting for anything.
pub(super) fn spawn(home: &Home) -> Result<Process> {
    let mut command = home.command()?;
    command.arg("serve");
    Process::spawn("odgm serve", command, &home.output())
}

fn still_starting(process: &mut Process, deadline: Instant) -> Result<()> {
    if let Some(status) = process.try_wait()? {
        return Err(format!("the node ended with {status} while it started:\n{}", process.output()).into());
    }
    if Instant::now() > deadline {
        return Err(format!("the node was not ready within {PATIENCE:?}:\n{}", process.output()).into());
    }
    Ok(())
}
