//! The command line: all commands and what they have in common.

use clap::{Parser, Subcommand};

use super::{
    address,
    backup::{self, BackupArgs},
    calls::{self, CallsArgs},
    client,
    cluster::{self, ClusterCommand},
    collection::CollectionCommand,
    cursor::CursorCommand,
    dead_letter::{self, DeadLetterCommand},
    entry::EntryCommand,
    export::{self, ExportArgs},
    history::{self, HistoryArgs},
    import::{self, ImportArgs},
    invoke::{self, InvokeArgs, ResultArgs},
    list::{self, ListArgs},
    object::{self, DeleteArgs, GetArgs, PutArgs},
    offline::{self, LogCommand, ViewCommand},
    partition::{self, PartitionCommand},
    restore::{self, RestoreArgs},
    serve::{self, ServeArgs},
    settings,
    trace::{self, TraceArgs},
    trigger::{self, TriggerCommand},
    watch::{self, WatchArgs},
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    the command or its input is wrong
  3    what was asked for does not exist
  4    conflict: another version than expected, it exists already, or it is in use
  5    the server is not reachable, or takes nothing in right now: try again
  6    the records asked for have been trimmed
  130  ended by Ctrl-C";

/// The Object Data Grid Manager: objects in partitions, with every change in a durable log
#[derive(Debug, Parser)]
#[command(name = "odgm", version, arg_required_else_help = true, after_help = help())]
pub(crate) struct Cli {
    /// The server
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ODGM_ENDPOINT",
        default_value = client::DEFAULT_ENDPOINT,
        help_heading = "Common options"
    )]
    pub(crate) endpoint: String,
    /// Answer in JSON: one document, or one line for each item of a list or stream
    #[arg(long, global = true, help_heading = "Common options")]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn help() -> String {
    format!(
        "{}\n\n{EXIT_CODES}\n\n\
         Examples:\n  \
         odgm serve\n  \
         odgm collection create demo --partitions 2\n  \
         odgm set demo/alice name=Alice city=Trondheim\n  \
         odgm watch demo --from earliest --values",
        address::HELP
    )
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    #[command(after_help = serve::HELP)]
    Serve(ServeArgs),
    /// Show all settings of a node: name, value, default, meaning
    #[command(after_help = settings::HELP)]
    Config,
    /// Replace an object with the entries given, or create it
    #[command(after_help = object::set_help())]
    Set(PutArgs),
    /// Show an object, or one of its entries; now or in the past
    #[command(after_help = object::get_help())]
    Get(GetArgs),
    /// Write entries of an object, keep the others, and show the whole
    #[command(after_help = object::merge_help())]
    Merge(PutArgs),
    /// Delete an object with all its entries
    #[command(after_help = object::DELETE_HELP)]
    Delete(DeleteArgs),
    /// Single entries of an object: get, set, delete, list, batch
    #[command(subcommand)]
    Entry(EntryCommand),
    /// List objects in the order of their ids
    #[command(after_help = list::HELP)]
    List(ListArgs),
    /// Follow what changes, live or from any place in the past
    #[command(after_help = watch::help())]
    Watch(WatchArgs),
    /// Show what happened to an object
    #[command(after_help = history::HELP)]
    History(HistoryArgs),
    /// Call a function, and print what it answers
    #[command(after_help = invoke::INVOKE_HELP)]
    Invoke(InvokeArgs),
    /// Show what came of a call that was accepted with `odgm invoke --async`
    #[command(after_help = invoke::RESULT_HELP)]
    Result(ResultArgs),
    /// Functions that follow changes of an object: list, set, add, clear
    #[command(subcommand, after_help = trigger::HELP)]
    Trigger(TriggerCommand),
    /// Show the calls that wait, and how many there are of each kind
    #[command(after_help = calls::HELP)]
    Calls(CallsArgs),
    /// Calls that were given up: list, show, redrive, discard
    #[command(subcommand, after_help = dead_letter::HELP)]
    DeadLetter(DeadLetterCommand),
    /// Show the tree of what a record caused
    #[command(after_help = trace::HELP)]
    Trace(TraceArgs),
    /// Load operations from JSON lines
    #[command(after_help = import::help())]
    Import(ImportArgs),
    /// Print all objects as JSON lines
    #[command(after_help = export::HELP)]
    Export(ExportArgs),
    /// Store collections in a folder, while they are in use
    #[command(after_help = backup::HELP)]
    Backup(BackupArgs),
    /// Create collections from a backup
    #[command(after_help = restore::HELP)]
    Restore(RestoreArgs),
    /// Nodes: list, status, add, remove, replace, readmit, rebalance, move-leaders
    #[command(subcommand, after_help = cluster::HELP)]
    Cluster(ClusterCommand),
    /// Collections: create, list, describe, set, route, delete
    #[command(subcommand)]
    Collection(CollectionCommand),
    /// Named durable cursors: list, move, drop
    #[command(subcommand)]
    Cursor(CursorCommand),
    /// Partitions of a running node: list, find, verify, verify-view, dump, log
    #[command(subcommand, after_help = partition::HELP)]
    Partition(PartitionCommand),
    /// The logs of a stopped node: dump, verify
    #[command(subcommand, after_help = offline::LOG_HELP)]
    Log(LogCommand),
    /// The views of a stopped node: rebuild, dump
    #[command(subcommand, after_help = offline::VIEW_HELP)]
    View(ViewCommand),
    /// Show the figures of a node
    Stats,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_says_what_there_is() {
        insta::assert_snapshot!(Cli::command().term_width(100).render_help().to_string(), @"
        The Object Data Grid Manager: objects in partitions, with every change in a durable log

        Usage: odgm [OPTIONS] <COMMAND>

        Commands:
          serve        Run a node
          config       Show all settings of a node: name, value, default, meaning
          set          Replace an object with the entries given, or create it
          get          Show an object, or one of its entries; now or in the past
          merge        Write entries of an object, keep the others, and show the whole
          delete       Delete an object with all its entries
          entry        Single entries of an object: get, set, delete, list, batch
          list         List objects in the order of their ids
          watch        Follow what changes, live or from any place in the past
          history      Show what happened to an object
          invoke       Call a function, and print what it answers
          result       Show what came of a call that was accepted with `odgm invoke --async`
          trigger      Functions that follow changes of an object: list, set, add, clear
          calls        Show the calls that wait, and how many there are of each kind
          dead-letter  Calls that were given up: list, show, redrive, discard
          trace        Show the tree of what a record caused
          import       Load operations from JSON lines
          export       Print all objects as JSON lines
          backup       Store collections in a folder, while they are in use
          restore      Create collections from a backup
          cluster      Nodes: list, status, add, remove, replace, readmit, rebalance, move-leaders
          collection   Collections: create, list, describe, set, route, delete
          cursor       Named durable cursors: list, move, drop
          partition    Partitions of a running node: list, find, verify, verify-view, dump, log
          log          The logs of a stopped node: dump, verify
          view         The views of a stopped node: rebuild, dump
          stats        Show the figures of a node
          help         Print this message or the help of the given subcommand(s)

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Common options:
              --endpoint <URL>  The server [env: ODGM_ENDPOINT=] [default: http://127.0.0.1:8080]
              --json            Answer in JSON: one document, or one line for each item of a list or stream

        Addresses:
          CLASS/PARTITION/ID   an object, in the partition given
          CLASS/ID             an object, in the partition of its id: the first 8 bytes of BLAKE3 of the
                               lower-cased id, as a little-endian number, modulo the number of partitions
          CLASS/PARTITION      one partition
          CLASS                all partitions of a collection

        Exit codes:
          0    done
          1    failed
          2    the command or its input is wrong
          3    what was asked for does not exist
          4    conflict: another version than expected, it exists already, or it is in use
          5    the server is not reachable, or takes nothing in right now: try again
          6    the records asked for have been trimmed
          130  ended by Ctrl-C

        Examples:
          odgm serve
          odgm collection create demo --partitions 2
          odgm set demo/alice name=Alice city=Trondheim
          odgm watch demo --from earliest --values
        ");
    }

    #[test]
    fn the_help_of_calls_says_how_they_are_made_and_looked_at() {
        let mut cli = Cli::command().term_width(120);
        cli.build();
        let mut text = String::new();
        for path in [
            "invoke",
            "result",
            "trigger",
            "trigger add",
            "calls",
            "dead-letter",
            "trace",
            "collection route",
        ] {
            let words = path.split(' ');
            let found =
                words.into_iter().try_fold(&mut cli, |command, word| command.find_subcommand_mut(word));
            let help = found.expect("a command").render_help().to_string();
            // What all commands have in common is in the help of the whole.
            let (own, rest) = help.split_once("Common options:").expect("common options");
            let below = rest.split_once("\n\n").map_or("", |(_, below)| below);
            text += &format!("$ odgm {path} --help\n{own}{below}\n");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn each_command_has_help_and_objects_have_one_grammar() {
        let cli = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(matches!(cli("odgm get demo/0/alice city --json").map(|cli| cli.json), Ok(true)));
        assert!(cli("odgm set demo/alice name=Alice --request-id r-1").is_ok());
        assert!(cli("odgm entry set demo/0/alice city=Oslo --expect-version 3").is_ok());
        assert!(cli("odgm history demo/0/alice --all").is_ok());
        let error = cli("odgm get demo").expect_err("no object");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("expected CLASS/PARTITION/ID or CLASS/ID"), "{error}");
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
        }
    }
}
