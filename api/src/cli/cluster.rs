//! `odgm cluster`: the nodes of a cluster; letting them in and out, and where partitions are.

mod follow;
mod view;

use std::time::Duration;

use clap::{Args, Subcommand};
use odgm_proto::odgm::v1;

use self::follow::{Goal, follow};
use self::view::{Changed, ClusterShown, Handed, MoveShown, StatusShown};
use super::{
    ask,
    client::{Client, Context},
    error::Error,
    output::{Human as _, Style},
};

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the nodes
    List,
    /// Show where replicated partitions are, and which are being moved
    Status {
        /// The collection [default: all]
        class: Option<String>,
        /// Only those that are being moved
        #[arg(long)]
        moving: bool,
    },
    /// Let a node in that was started and waits for it
    #[command(after_help = ADD_HELP)]
    Add {
        /// Its number or name, as in ODGM_NODE_ID
        node: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Move all partitions off a node, and let it leave
    #[command(after_help = REMOVE_HELP)]
    Remove(RemoveArgs),
    /// Put a node into the places of another one, dead or alive, which leaves
    #[command(after_help = REPLACE_HELP)]
    Replace(ReplaceArgs),
    /// Let a node begin anew whose disk was lost, under its old id
    #[command(after_help = READMIT_HELP)]
    Readmit(ReadmitArgs),
    /// Spread replicas and leaders over the nodes
    Rebalance(RebalanceArgs),
    /// Have other nodes lead what a node leads, before it is stopped for a while
    #[command(after_help = LEADERS_HELP)]
    MoveLeaders {
        /// The node
        node: String,
    },
}

/// Help below the commands.
pub(crate) const HELP: &str = "\
Any node answers. A change is written down first; the nodes then make it so, whatever becomes of the command that asked for
it: Ctrl-C ends the watching, and `odgm cluster status` shows how far it is.

Examples:
  odgm cluster list
  odgm cluster add 4 && odgm cluster rebalance
  odgm cluster remove 3
  odgm cluster replace 3 5";

const ADD_HELP: &str = "\
The node has to run: with an id of its own, an empty data directory, ODGM_MEMBERS naming nodes of the cluster and not itself,
the same ODGM_CLUSTER, and a way to the others (OPRC_ZENOH_PEERS). It takes partitions when `odgm cluster rebalance` gives it
some, and those of collections that are created later.";

const REMOVE_HELP: &str = "\
Other nodes take its replicas over before it loses them. When it has none left it leaves the cluster, and can be stopped.
A node that is dead can be removed in the same way, as long as each of its partitions has a majority without it.";

const REPLACE_HELP: &str = "\
The new node is let in first if it is not part of the cluster yet. The old one need not be alive; if it is, it leaves when
it has nothing left.";

const READMIT_HELP: &str = "\
A node whose disk was lost must not count as what it was: the others refuse it, and say so. This takes it out of all groups,
and then back in with its new data directory, which gets what partitions lack. The node has to run.";

const LEADERS_HELP: &str = "\
A node that is stopped by SIGTERM does the same by itself. `odgm cluster rebalance --leaders` gives them back.";

/// How long to watch.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Return when it is written down, and do not watch until it is done
    #[arg(long)]
    no_wait: bool,
    /// Watch for so many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// How a change is done.
#[derive(Clone, Copy, Debug, Args)]
struct How {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
}

/// What may be given up.
#[derive(Clone, Copy, Debug, Args)]
struct Sacrifice {
    /// Fewer replicas are enough, where there are not so many nodes
    #[arg(long)]
    fewer_replicas: bool,
    /// Partitions that are not replicated may begin empty on another node: what they hold is lost
    #[arg(long)]
    drop_local: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The node that is to go
    node: String,
    #[command(flatten)]
    sacrifice: Sacrifice,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// The node that is to go
    old: String,
    /// The node that takes its places [default: itself with a new disk, as `readmit` does]
    new: Option<String>,
    #[command(flatten)]
    sacrifice: Sacrifice,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(crate) struct ReadmitArgs {
    /// The node whose disk was lost
    node: String,
    /// Partitions that are not replicated and were on it may begin empty on another node
    #[arg(long)]
    drop_local: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(crate) struct RebalanceArgs {
    /// Spread the leaders alone; no data moves
    #[arg(long)]
    leaders: bool,
    #[command(flatten)]
    how: How,
}

/// `odgm cluster`.
pub(crate) async fn run(command: ClusterCommand, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    match command {
        ClusterCommand::List => {
            let cluster = cluster(&client).await?;
            context.output.document(&ClusterShown::from(cluster))
        }
        ClusterCommand::Status { class, moving } => {
            let cluster = cluster(&client).await?;
            context.output.document(&StatusShown::of(cluster, class.as_deref(), moving))
        }
        ClusterCommand::Add { node, wait } => add(&client, node, wait, context).await,
        ClusterCommand::Remove(args) => {
            let RemoveArgs { node, sacrifice: Sacrifice { fewer_replicas, drop_local }, how } = args;
            let goal = Goal::Gone(node.clone());
            let change = |change| {
                let request = v1::RemoveNodeRequest {
                    node: node.clone(),
                    change: Some(change),
                    fewer_replicas,
                    drop_local,
                };
                let mut admin = client.admin();
                async move { admin.remove_node(request).await }
            };
            let question = format!("Take node {node} out of the cluster?");
            make(&client, &question, how, goal, change, context).await
        }
        ClusterCommand::Replace(args) => replace(&client, args, context).await,
        ClusterCommand::Readmit(args) => readmit(&client, args, context).await,
        ClusterCommand::Rebalance(RebalanceArgs { leaders: leaders_only, how }) => {
            let change = |change| {
                let request = v1::RebalanceRequest { change: Some(change), leaders_only };
                let mut admin = client.admin();
                async move { admin.rebalance(request).await }
            };
            make(&client, "Move these?", how, Goal::Settled, change, context).await
        }
        ClusterCommand::MoveLeaders { node } => {
            let request = v1::MoveLeadersRequest { from: node.clone() };
            let left = client.admin().move_leaders(request).await?.into_inner().left;
            context.output.document(&Handed { node, left })
        }
    }
}

async fn replace(client: &Client, args: ReplaceArgs, context: &mut Context) -> Result<(), Error> {
    let ReplaceArgs { old, new, sacrifice: Sacrifice { fewer_replicas, drop_local }, how } = args;
    let Some(new) = new else {
        return readmit(client, ReadmitArgs { node: old, drop_local, how }, context).await;
    };
    let goal = Goal::Gone(old.clone());
    let change = |change| {
        let request = v1::ReplaceNodeRequest {
            node: old.clone(),
            replacement: new.clone(),
            change: Some(change),
            fewer_replicas,
            drop_local,
        };
        let mut admin = client.admin();
        async move { admin.replace_node(request).await }
    };
    let question = format!("Put node {new} into the places of node {old}, which leaves?");
    make(client, &question, how, goal, change, context).await
}

async fn readmit(client: &Client, args: ReadmitArgs, context: &mut Context) -> Result<(), Error> {
    let ReadmitArgs { node, drop_local, how } = args;
    let goal = Goal::Anew(node.clone());
    let change = |change| {
        let request = v1::ReadmitNodeRequest { node: node.clone(), change: Some(change), drop_local };
        let mut admin = client.admin();
        async move { admin.readmit_node(request).await }
    };
    let question = format!("Forget the old data directory of node {node}, and let it begin anew?");
    make(client, &question, how, goal, change, context).await
}

async fn add(client: &Client, node: String, wait: Wait, context: &mut Context) -> Result<(), Error> {
    client.admin().add_node(v1::AddNodeRequest { node: node.clone() }).await?;
    let goal = Goal::Follows(node.clone());
    let done = watch(client, goal, &[], wait).await?;
    let what = if done { "is part of the cluster" } else { "is let in" };
    let told = format!("{node}  {what}; `odgm cluster rebalance` gives it partitions");
    context.output.document(&Changed { told, moves: Vec::new(), done })
}

/// Shows a plan, asks, has it done, and watches.
async fn make<F>(
    client: &Client,
    question: &str,
    how: How,
    goal: Goal,
    change: impl Fn(v1::ClusterChange) -> F,
    context: &mut Context,
) -> Result<(), Error>
where
    F: Future<Output = Result<tonic::Response<v1::ChangeClusterResponse>, tonic::Status>>,
{
    let How { dry_run, yes, wait } = how;
    let planned = change(v1::ClusterChange { dry_run: true, expected_version: 0 }).await?.into_inner();
    let moves: Vec<MoveShown> = planned.moves.into_iter().map(MoveShown::from).collect();
    if dry_run {
        let told = "nothing was changed".to_owned();
        return context.output.document(&Changed { told, moves, done: false });
    }
    let nothing = moves.is_empty() && goal == Goal::Settled;
    if nothing {
        let told = "there is nothing to move".to_owned();
        return context.output.document(&Changed { told, moves, done: true });
    }
    if !yes {
        if !ask::can_ask() {
            return Err(Error::Usage(format!(
                "{question} Without a terminal to ask on, say --yes; --dry-run shows what would be done"
            )));
        }
        eprint!("{}", MoveShown::table(&moves).human(Style::PLAIN));
        if !ask::confirm(question)? {
            return Err(Error::Failed("nothing was changed".to_owned()));
        }
    }
    // What was shown is what is done.
    let expected_version = planned.version;
    let begun = change(v1::ClusterChange { dry_run: false, expected_version }).await?.into_inner();
    let moves: Vec<MoveShown> = begun.moves.into_iter().map(MoveShown::from).collect();
    let done = watch(client, goal, &moves, wait).await?;
    let told = if done { "done" } else { "under way: `odgm cluster status` shows how far it is" };
    context.output.document(&Changed { told: told.to_owned(), moves, done })
}

/// Whether it was done before the watching ended.
async fn watch(client: &Client, goal: Goal, moves: &[MoveShown], wait: Wait) -> Result<bool, Error> {
    if wait.no_wait {
        return Ok(false);
    }
    follow(client, &goal, moves, Duration::from_secs(wait.timeout)).await?;
    Ok(true)
}

/// The cluster as the node that is asked sees it.
async fn cluster(client: &Client) -> Result<v1::GetClusterResponse, Error> {
    Ok(client.admin().get_cluster(v1::GetClusterRequest {}).await?.into_inner())
}
