//! What can go wrong, and the exit code that says so.

use std::{error::Error as _, io, path::Path};

use odgm_api::status::FIRST_OFFSET;
use serde::Serialize;
use tonic::{Code, Status};

/// The exit codes, as the help of `odgm` documents them.
pub(crate) mod exit {
    /// It failed.
    pub(crate) const FAILURE: u8 = 1;
    /// The command or the input is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// What was asked for does not exist.
    pub(crate) const NOT_FOUND: u8 = 3;
    /// Another version, or it exists already.
    pub(crate) const CONFLICT: u8 = 4;
    /// The server is not reachable or takes nothing in right now.
    pub(crate) const UNAVAILABLE: u8 = 5;
    /// The records asked for have been trimmed.
    pub(crate) const TRIMMED: u8 = 6;
    /// Ended by Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command did not do what was asked. Messages say what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command or its input is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Another version, or it exists already.
    #[error("{0}")]
    Conflict(String),
    /// The server is not reachable or takes nothing in right now.
    #[error("{0}")]
    Unavailable(String),
    /// The records asked for have been trimmed.
    #[error("{0}")]
    Trimmed(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Ended by Ctrl-C, after what there was to say has been said.
    #[error("interrupted")]
    Interrupted,
    /// Standard output took no more.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// A file that could not be read or written.
    pub(crate) fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {action} {}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(message),
            _ => Self::Failed(message),
        }
    }

    /// Whether the reader of our output has gone, as in `odgm list demo | head`; not worth a word.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code for scripts.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::NotFound(_) => exit::NOT_FOUND,
            Self::Conflict(_) => exit::CONFLICT,
            Self::Unavailable(_) => exit::UNAVAILABLE,
            Self::Trimmed(_) => exit::TRIMMED,
            Self::Interrupted => exit::INTERRUPTED,
            Self::Failed(_) | Self::Output(_) => exit::FAILURE,
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Unavailable(_) => "unavailable",
            Self::Trimmed(_) => "trimmed",
            Self::Interrupted => "interrupted",
            Self::Failed(_) | Self::Output(_) => "failure",
        }
    }

    /// The error as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Report {
            error: String,
            kind: &'static str,
            exit_code: u8,
        }
        let report = Report { error: self.to_string(), kind: self.kind(), exit_code: self.exit_code() };
        serde_json::to_string(&report).unwrap_or(report.error)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let message = describe(&status);
        match status.code() {
            Code::InvalidArgument => Self::Usage(message),
            Code::NotFound => Self::NotFound(message),
            Code::Aborted | Code::AlreadyExists => Self::Conflict(message),
            Code::OutOfRange if status.metadata().contains_key(FIRST_OFFSET) => Self::Trimmed(message),
            // An offset that is not there yet.
            Code::OutOfRange => Self::Usage(message),
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
                Self::Unavailable(message)
            }
            Code::Unimplemented => Self::Failed(format!(
                "the server does not know this request; is it an ODGM node of this version? ({message})"
            )),
            Code::DataLoss => Self::Failed(format!("data loss: {message}")),
            _ => Self::Failed(message),
        }
    }
}

/// What the server said; or, where the connection broke, the innermost reason.
fn describe(status: &Status) -> String {
    let mut reason = status.source();
    let Some(mut innermost) = reason else {
        return match status.message() {
            "" => format!("the server answered {:?} without a message", status.code()),
            message => message.to_owned(),
        };
    };
    while let Some(error) = reason {
        innermost = error;
        reason = error.source();
    }
    format!("the connection to the server broke: {innermost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_exit_codes_that_scripts_can_use() {
        let code = |code| Error::from(Status::new(code, "because")).exit_code();
        assert_eq!(code(Code::InvalidArgument), exit::USAGE);
        assert_eq!(code(Code::NotFound), exit::NOT_FOUND);
        assert_eq!(code(Code::Aborted), exit::CONFLICT);
        assert_eq!(code(Code::AlreadyExists), exit::CONFLICT);
        assert_eq!(code(Code::Unavailable), exit::UNAVAILABLE);
        assert_eq!(code(Code::OutOfRange), exit::USAGE);
        assert_eq!(code(Code::Internal), exit::FAILURE);
    }

    #[test]
    fn records_are_trimmed_only_if_the_server_says_where_the_others_begin() {
        let mut status = Status::out_of_range("offset 3 has been trimmed");
        status.metadata_mut().insert(FIRST_OFFSET, "10".parse().expect("a value"));
        assert_eq!(Error::from(status).exit_code(), exit::TRIMMED);
    }

    #[test]
    fn errors_are_one_line_of_json_when_asked_for() {
        let error = Error::from(Status::aborted("the object is at version 4, not 3"));
        assert_eq!(
            error.to_json(),
            r#"{"error":"the object is at version 4, not 3","kind":"conflict","exit_code":4}"#
        );
    }
}
