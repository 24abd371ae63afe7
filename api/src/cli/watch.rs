//! `odgm watch`: events live, or from any place in the logs.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use odgm_proto::odgm::v1::{self, subscribe_request::From};
use serde::Serialize;

use super::{
    address::ClassAddress,
    client::Context,
    error::Error,
    event::Event,
    output::{Human, Output, Style, Tint},
    time::{self, StartPoint},
};

/// `odgm watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The collection or one partition of it
    #[arg(value_name = "CLASS[/PARTITION]")]
    address: ClassAddress,
    /// Where to begin: earliest, latest, offset:N (of one partition), a time, cursor:TEXT, named:NAME
    #[arg(long, value_name = "START", default_value = "latest", allow_hyphen_values = true)]
    from: StartPoint,
    /// Only objects whose id begins with this
    #[arg(long)]
    prefix: Option<String>,
    /// Only changes of this entry; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Only events of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Show what was written
    #[arg(long)]
    values: bool,
    /// End at what is the last record now
    #[arg(long)]
    until_current: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show progress where nothing matches, too
    #[arg(long)]
    heartbeats: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Created,
    Updated,
    Deleted,
    Completed,
    Failed,
}

impl std::convert::From<Kind> for i32 {
    fn from(kind: Kind) -> Self {
        let kind = match kind {
            Kind::Created => v1::EventKind::Created,
            Kind::Updated => v1::EventKind::Updated,
            Kind::Deleted => v1::EventKind::Deleted,
            Kind::Completed => v1::EventKind::Completed,
            Kind::Failed => v1::EventKind::Failed,
        };
        kind.into()
    }
}

/// Help below the options.
pub(crate) fn help() -> String {
    format!(
        "{}\n\n\
         Order: within each partition by offset; one event for each record that changed something.\n\
         Resuming: at the end (Ctrl-C, too) the cursors of all partitions are printed to standard error as\n\
         --from cursor:...; with --json the last event of each batch carries the \"cursor\" of its partition.\n\n\
         Examples:\n  \
         odgm watch demo\n  \
         odgm watch demo --from earliest --values --until-current\n  \
         odgm watch demo/0 --from offset:120 --kind deleted\n  \
         odgm watch demo --kind completed --kind failed      # how calls of functions end\n  \
         odgm watch demo --from -5m --prefix user: --key city --json",
        time::HELP
    )
}

/// `odgm watch`.
pub(crate) async fn run(args: WatchArgs, context: &mut Context) -> Result<(), Error> {
    let mut watch = Watch {
        left: args.limit.unwrap_or(u64::MAX),
        shows_heartbeats: args.heartbeats,
        cursors: BTreeMap::new(),
    };
    if watch.left == 0 {
        return Ok(());
    }
    let client = context.connect().await?;
    let mut stream = client.streams().subscribe(request(&args)).await?.into_inner();
    let outcome = loop {
        let response = tokio::select! {
            response = stream.message() => response,
            _ = tokio::signal::ctrl_c() => break Err(Error::Interrupted),
        };
        match response {
            Ok(Some(response)) => {
                if watch.show(response, &mut context.output)? {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(status.into()),
        }
    };
    context.output.flush()?;
    if let Some(hint) = watch.how_to_resume() {
        eprintln!("{hint}");
    }
    outcome
}

fn request(args: &WatchArgs) -> v1::SubscribeRequest {
    let from = match args.from.clone() {
        StartPoint::Earliest => From::Earliest(v1::Earliest {}),
        StartPoint::Latest => From::Latest(v1::Latest {}),
        StartPoint::Offset(offset) => From::Offset(offset),
        StartPoint::TimeMs(millis) => From::TimeMs(millis),
        StartPoint::Cursors(cursors) => From::Cursors(v1::Cursors { cursors }),
        StartPoint::Named(name) => From::NamedCursor(name),
    };
    v1::SubscribeRequest {
        cls_id: args.address.class.clone(),
        partitions: args.address.partition.map(u32::from).into_iter().collect(),
        from: Some(from),
        filter: Some(v1::Filter {
            object_prefix: args.prefix.clone().unwrap_or_default(),
            keys: args.keys.clone(),
            kinds: args.kinds.iter().copied().map(i32::from).collect(),
        }),
        with_values: args.values,
        until_current: args.until_current,
        heartbeat_ms: 0,
    }
}

struct Watch {
    left: u64,
    shows_heartbeats: bool,
    /// The newest cursor of each partition.
    cursors: BTreeMap<u32, String>,
}

impl Watch {
    /// Shows a batch; true if that was enough.
    fn show(&mut self, response: v1::SubscribeResponse, output: &mut Output) -> Result<bool, Error> {
        let cursor = time::encode_cursor(&response.cursor);
        if response.events.is_empty() && self.shows_heartbeats {
            output.item(&Heartbeat {
                partition: response.partition_id,
                progress_offset: response.progress_offset,
                head_offset: response.head_offset,
                cursor: cursor.clone(),
            })?;
        }
        let count = response.events.len();
        for (index, event) in response.events.into_iter().enumerate() {
            let mut event = Event::from(event);
            if index + 1 == count {
                event.cursor = Some(cursor.clone());
            }
            output.item(&event)?;
            self.left -= 1;
            if self.left == 0 {
                // A cursor stands for a whole batch: only after its last event may it be kept.
                if index + 1 == count {
                    self.cursors.insert(response.partition_id, cursor);
                }
                output.flush()?;
                return Ok(true);
            }
        }
        self.cursors.insert(response.partition_id, cursor);
        output.flush()?;
        Ok(false)
    }

    fn how_to_resume(&self) -> Option<String> {
        let cursors: Vec<_> = self.cursors.values().map(String::as_str).collect();
        (!cursors.is_empty()).then(|| format!("resume with --from cursor:{}", cursors.join(",")))
    }
}

/// A partition's progress without an event.
#[derive(Serialize)]
struct Heartbeat {
    partition: u32,
    progress_offset: u64,
    head_offset: u64,
    cursor: String,
}

impl Human for Heartbeat {
    fn human(&self, style: Style) -> String {
        let Self { partition, progress_offset, head_offset, .. } = self;
        let line =
            format!("partition {partition} has been looked at up to {progress_offset} of {head_offset}");
        style.paint(Tint::Faint, &line) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: WatchArgs,
    }

    fn parse(line: &str) -> v1::SubscribeRequest {
        request(&Line::try_parse_from(line.split(' ')).expect("a command line").args)
    }

    #[test]
    fn options_become_a_subscription() {
        let request = parse("watch demo/3 --from offset:7 --prefix user: --key city --kind deleted --values");
        assert_eq!(request.cls_id, "demo");
        assert_eq!(request.partitions, [3]);
        assert_eq!(request.from, Some(From::Offset(7)));
        let filter = request.filter.expect("a filter");
        assert_eq!((filter.object_prefix.as_str(), &filter.keys[..]), ("user:", &["city".to_owned()][..]));
        assert_eq!(filter.kinds, [i32::from(v1::EventKind::Deleted)]);
        assert!(request.with_values && !request.until_current);
    }

    #[test]
    fn without_options_everything_from_now_on_is_watched() {
        let request = parse("watch demo");
        assert!(request.partitions.is_empty());
        assert_eq!(request.from, Some(From::Latest(v1::Latest {})));
        assert!(matches!(parse("watch demo --from -5m").from, Some(From::TimeMs(_))));
    }
}
