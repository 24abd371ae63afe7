//! The example functions as a process of their own, in either language.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::Result;
use crate::harness::program;
use crate::process::Process;

/// How long it may take to start: Python reads a lot first.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(20);

/// In which language the functions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `tests/src/functions`.
    Rust,
    /// `deploy/functions/python`, started as the README says.
    Python,
}

/// A process that serves the example functions. Dropping it kills it.
#[derive(Debug)]
pub struct FunctionProcess {
    address: SocketAddr,
    process: Process,
    /// Dropped last.
    _folder: TempDir,
}

impl FunctionProcess {
    /// Starts one whose functions write to a node, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead, or does not listen within a minute; the message has what it said.
    pub async fn start(language: Language, node: SocketAddr) -> Result<Self> {
        Self::start_at(language, node, 0).await
    }

    /// The same at a port of choice.
    ///
    /// # Errors
    /// As of that.
    pub async fn start_at(language: Language, node: SocketAddr, port: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("odgm-functions-").tempdir()?;
        let port_file = folder.path().join("port");
        let mut command = command(language)?;
        command.args(["--port", &port.to_string(), "--grid", &format!("http://{node}"), "--port-file"]);
        command.arg(&port_file);
        let mut process = Process::spawn("functions", command, &folder.path().join("output"))?;
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            if let Some(status) = process.try_wait()? {
                return Err(format!("the functions ended with {status}:\n{}", process.output()).into());
            }
            if let Some(address) = address_in(&port_file)
                && TcpStream::connect(address).await.is_ok()
            {
                break address;
            }
            if Instant::now() > deadline {
                let said = process.output();
                return Err(format!("the functions did not listen within {PATIENCE:?}:\n{said}").into());
            }
            tokio::time::sleep(LOOK).await;
        };
        Ok(Self { address, process, _folder: folder })
    }

    /// Where they are to be called.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port that they listen on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ctrl-C, and waits for the process to end.
    ///
    /// # Errors
    /// When it ends with another code than 0, or not within a minute.
    pub fn interrupt(mut self) -> Result<()> {
        self.process.begin_to_interrupt()?;
        let status = self.process.wait(PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the functions were interrupted and ended with {status}:\n{}", self.process.output())
            .into())
    }
}

fn command(language: Language) -> Result<Command> {
    match language {
        Language::Rust => Ok(Command::new(program::beside("functions", "cargo build -p odgm-tests")?)),
        Language::Python => {
            let mut command = Command::new(scripts().join("functions"));
            command.arg("python");
            Ok(command)
        }
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts")
}

fn address_in(file: &Path) -> Option<SocketAddr> {
    let port: u16 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}
