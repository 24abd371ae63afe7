//! The command line. One module for each family of commands; [`client`] finds the server and the objects, [`output`]
//! shows what came of it.

mod address;
mod answer;
mod args;
mod ask;
mod assignment;
mod backup;
mod call;
mod calls;
mod client;
mod cluster;
mod collection;
mod cursor;
mod dead_letter;
mod entry;
mod error;
mod event;
mod export;
mod history;
mod import;
mod invoke;
mod list;
mod object;
mod offline;
mod output;
mod partition;
mod placement;
mod progress;
mod record;
mod restore;
mod route;
mod serve;
mod settings;
mod stats;
mod time;
mod trace;
mod traced;
mod trigger;
mod value;
mod verify;
mod watch;
mod wire;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use client::Context;
use error::Error;
use output::Output;

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let Cli { endpoint, json, command } = Cli::parse();
    let mut context = Context { endpoint, output: Output::stdout(json) };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(Box::pin(run(command, &mut context))))
        .and_then(|()| context.output.flush());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

fn report(error: &Error, json: bool) {
    match error {
        Error::Interrupted => {}
        _ if json => eprintln!("{}", error.to_json()),
        _ => eprintln!("odgm: {error}"),
    }
}

async fn run(command: Command, context: &mut Context) -> Result<(), Error> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Config => settings::run(context),
        Command::Set(args) => object::set(args, context).await,
        Command::Get(args) => object::get(args, context).await,
        Command::Merge(args) => object::merge(args, context).await,
        Command::Delete(args) => object::delete(args, context).await,
        Command::Entry(command) => entry::run(command, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::History(args) => history::run(args, context).await,
        Command::Invoke(args) => invoke::invoke(args, context).await,
        Command::Result(args) => invoke::result(args, context).await,
        Command::Trigger(command) => trigger::run(command, context).await,
        Command::Calls(args) => calls::run(args, context).await,
        Command::DeadLetter(command) => dead_letter::run(command, context).await,
        Command::Trace(args) => trace::run(args, context).await,
        Command::Import(args) => import::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Backup(args) => backup::run(args, context).await,
        Command::Restore(args) => restore::run(args, context).await,
        Command::Cluster(command) => cluster::run(command, context).await,
        Command::Collection(command) => collection::run(command, context).await,
        Command::Cursor(command) => cursor::run(command, context).await,
        Command::Partition(command) => partition::run(command, context).await,
        Command::Log(command) => offline::log(command, context),
        Command::View(command) => offline::view(command, context),
        Command::Stats => stats::run(context).await,
    }
}
