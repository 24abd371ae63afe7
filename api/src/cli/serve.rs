//! `odgm serve`: a node in this process.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use odgm_api::config::Config;

use super::error::Error;

/// `odgm serve`. Each option stands for an environment variable and wins over it.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// The port to listen on; 0 takes a free one [env: ODGM_HTTP_PORT=] [default: 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// The address to listen on [env: ODGM_HTTP_HOST=] [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Where everything durable is [env: ODGM_DATA_DIR=] [default: ./data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node's number or name [env: ODGM_NODE_ID=] [default: random, kept in the data directory]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// What is logged, for example info or odgm_api=debug,warn [env: ODGM_LOG=]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Collections to create when the node first sees their names, as a JSON array [env: ODGM_COLLECTION=]
    #[arg(long, value_name = "JSON")]
    collection: Option<String>,
}

/// Help below the options.
pub(crate) const HELP: &str = "\
All settings are environment variables; `odgm config` lists them with their values.
Ctrl-C or SIGTERM stops the node when requests under way are done; a second one at once.

Examples:
  odgm serve
  odgm serve --port 9000 --data-dir /var/lib/odgm
  ODGM_COLLECTION='[{\"name\":\"demo\",\"partition_count\":2}]' odgm serve";

impl ServeArgs {
    /// What the option of that variable says, if it is given.
    fn lookup(&self, variable: &str) -> Option<OsString> {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        match variable {
            "ODGM_HTTP_PORT" => text(&self.port),
            "ODGM_HTTP_HOST" => text(&self.host),
            "ODGM_DATA_DIR" => self.data_dir.as_ref().map(OsString::from),
            "ODGM_NODE_ID" => text(&self.node_id),
            "ODGM_LOG" => text(&self.log),
            "ODGM_COLLECTION" => text(&self.collection),
            _ => None,
        }
    }
}

/// `odgm serve`: returns when the node has stopped.
pub(crate) async fn run(args: ServeArgs) -> Result<(), Error> {
    odgm_log::arm_failpoints();
    let config = Config::from_lookup(|name| args.lookup(name).or_else(|| std::env::var_os(name)))
        .map_err(|error| Error::Usage(error.to_string()))?;
    let impatience = tokio::spawn(exit_on_second_signal());
    let served = odgm_api::serve(config).await;
    impatience.abort();
    served.map_err(|error| Error::Failed(error.to_string()))
}

/// The first signal begins an orderly stop; whoever sends a second one does not want to wait for it.
async fn exit_on_second_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for _ in 0..2 {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    eprintln!("odgm: stopped at once; what was acknowledged is in the log");
    std::process::exit(super::error::exit::INTERRUPTED.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_environment_and_are_checked_like_it() {
        let args =
            ServeArgs { port: Some("9000".into()), data_dir: Some("/tmp/x".into()), ..Default::default() };
        let config = Config::from_lookup(|name| args.lookup(name)).expect("a configuration");
        assert_eq!(config.port, 9_000);

        let args = ServeArgs { port: Some("http".into()), ..Default::default() };
        let error = Config::from_lookup(|name| args.lookup(name)).expect_err("no port");
        assert!(error.to_string().contains("ODGM_HTTP_PORT"), "{error}");
    }
}
