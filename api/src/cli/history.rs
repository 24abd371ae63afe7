//! `odgm history`: what happened to one object.

use clap::Args;
use odgm_proto::odgm::v1;

use super::{
    address::ObjectAddress,
    client::{Client, Context, Place},
    error::Error,
    event::Event,
    list::PAGE,
    output::Rows,
};

/// `odgm history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// Only at and after this offset
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: u64,
    /// At most so many events
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// All events that are kept
    #[arg(long, conflicts_with_all = ["limit", "newest_first"])]
    all: bool,
    /// Newest first; at most 1024 events
    #[arg(long)]
    newest_first: bool,
    /// Show what was written
    #[arg(long)]
    values: bool,
}

/// Help below the options.
pub(crate) const HELP: &str = "Examples:\n  \
    odgm history demo/0/alice\n  \
    odgm history demo/0/alice --newest-first --limit 5 --values\n  \
    odgm get demo/0/alice --at 17      # the object after one of these offsets";

/// `odgm history`.
pub(crate) async fn run(args: HistoryArgs, context: &mut Context) -> Result<(), Error> {
    if args.newest_first && args.limit > u64::from(PAGE) {
        return Err(Error::Usage(format!("--newest-first shows at most {PAGE} events; lower --limit")));
    }
    let client = context.connect().await?;
    let place = client.locate(args.address.clone()).await?;
    let mut rows = Rows::new(&mut context.output, Event::HEADING);
    let mut left = if args.all { u64::MAX } else { args.limit };
    let mut from = args.from;
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let events = page_of(&client, &place, &args, from, page).await?;
        let is_last = args.newest_first || events.len() < page as usize;
        for event in events {
            let event = Event::from(event);
            from = event.offset + 1;
            left -= 1;
            rows.push(&event, event.cells())?;
        }
        if is_last {
            break;
        }
    }
    rows.finish()
}

async fn page_of(
    client: &Client,
    place: &Place,
    args: &HistoryArgs,
    from_offset: u64,
    limit: u32,
) -> Result<Vec<v1::Event>, Error> {
    let request = v1::HistoryRequest {
        cls_id: place.class.clone(),
        partition_id: place.partition.into(),
        object_id: place.id.clone(),
        from_offset,
        limit,
        with_values: args.values,
        newest_first: args.newest_first,
    };
    let mut stream = client.streams().history(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await? {
        events.push(event);
    }
    Ok(events)
}
