//! Runs of the command line.

use std::process::{Command, ExitStatus};

use crate::Result;

/// A program that has run to its end.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    pub(super) fn of(mut command: Command) -> Result<Self> {
        let output = command.output()?;
        Ok(Self {
            status: output.status,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What it printed, if all went well.
    ///
    /// # Errors
    /// When the exit code was not 0; the message has what it complained about.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(format!("{}\n{}{}", self.status, self.stdout, self.stderr).into())
    }

    /// The exit code and all that it printed, complaints last, if it did not go well.
    ///
    /// # Errors
    /// When the exit code was 0, or there was none.
    pub fn failure(self) -> Result<(i32, String)> {
        match self.status.code() {
            Some(code) if code != 0 => Ok((code, self.stdout + &self.stderr)),
            _ => {
                Err(format!("expected a failure, but it ended with {}:\n{}", self.status, self.stdout).into())
            }
        }
    }
}
