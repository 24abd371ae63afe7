//! `odgm dead-letter`: calls that were given up; trying them again, or dropping them.

mod view;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use odgm_proto::odgm::v1;

use self::view::{Done, Shown};
use super::{
    address::{ClassAddress, LetterAddress, LettersAddress},
    ask,
    client::{Client, Context},
    error::Error,
    output::Rows,
    traced::LetterView,
};

/// Letters that are asked for at once.
const PAGE: u32 = 1_024;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// List what was given up
    List(ListArgs),
    /// Show one: why, what it was called with, and what led to it
    Show {
        /// The dead letter
        #[arg(value_name = "CLASS/PARTITION/OFFSET/INDEX")]
        address: LetterAddress,
    },
    /// Try them again, from their first attempt on
    #[command(after_help = REDRIVE_HELP)]
    Redrive(Which),
    /// Drop them
    #[command(after_help = DISCARD_HELP)]
    Discard(DiscardArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The collection or one partition of it
    #[arg(value_name = "CLASS[/PARTITION]")]
    address: ClassAddress,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

/// Which of them.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Dead letters; or, with --all, collections or partitions
    #[arg(value_name = "CLASS/PARTITION/OFFSET/INDEX", required = true)]
    addresses: Vec<LettersAddress>,
    /// All that there are at the moment
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    which: Which,
    /// Why; it is kept in the log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Help below the commands.
pub(crate) const HELP: &str = "\
A call is given up when its attempts are used up, when there is nothing to call, or when the chain of triggers that leads to \
it is too long. It stays until it is redriven or discarded, as far as the collection's dead_letter_age_ms and dead_letter_max_bytes allow.

Examples:
  odgm dead-letter list flights
  odgm dead-letter show flights/3/17/2
  odgm dead-letter redrive flights/3/17/2 flights/3/40/0
  odgm dead-letter redrive flights --all
  odgm dead-letter discard flights/3 --all --reason 'see ticket 17'";

const REDRIVE_HELP: &str = "Examples:\n  \
    odgm dead-letter redrive flights/3/17/2\n  \
    odgm dead-letter redrive flights --all";

const DISCARD_HELP: &str = "Examples:\n  \
    odgm dead-letter discard flights/3/17/2 --reason 'see ticket 17'\n  \
    odgm dead-letter discard flights/3 --all --yes";

/// `odgm dead-letter`.
pub(crate) async fn run(command: DeadLetterCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        DeadLetterCommand::List(args) => list(args, context).await,
        DeadLetterCommand::Show { address } => show(address, context).await,
        DeadLetterCommand::Redrive(which) => redrive(which, context).await,
        DeadLetterCommand::Discard(args) => discard(args, context).await,
    }
}

async fn list(args: ListArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let mut rows = Rows::new(&mut context.output, LetterView::HEADING);
    let mut left = args.limit;
    for partition in client.partitions(&args.address).await? {
        let mut after = None;
        while left > 0 {
            let request = v1::ListDeadLettersRequest {
                cls_id: args.address.class.clone(),
                partition_id: Some(partition.into()),
                limit: u32::try_from(left).unwrap_or(PAGE).min(PAGE),
                after: after.take(),
            };
            let page = client.calls().list_dead_letters(request).await?.into_inner();
            after = page.letters.last().and_then(|letter| letter.id);
            for letter in page.letters {
                let letter = LetterView::from(letter);
                left -= 1;
                rows.push(&letter, letter.cells(&args.address.class))?;
            }
            if !page.more || after.is_none() {
                break;
            }
        }
    }
    rows.finish()
}

async fn show(address: LetterAddress, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let LetterAddress { record, index } = address;
    let request = v1::GetDeadLetterRequest {
        cls_id: record.partition.class.clone(),
        partition_id: record.partition.partition.into(),
        id: Some(v1::LetterId { offset: record.offset, index }),
    };
    let answer = client.calls().get_dead_letter(request).await?.into_inner();
    context.output.document(&Shown::new(record.partition.class, answer))
}

async fn redrive(which: Which, context: &mut Context) -> Result<(), Error> {
    let chosen = Chosen::of(which)?;
    let client = context.connect().await?;
    let mut refused = Vec::new();
    for ((class, partition), letters) in chosen.requests(&client).await? {
        let (cls_id, all) = (class.clone(), letters.is_empty());
        let request = v1::RedriveRequest { cls_id, partition_id: partition.into(), letters, all };
        let answer = client.calls().redrive(request).await?.into_inner();
        let done = Done { class, partition, what: "redriven", count: answer.redriven };
        show_done(&done, &answer.refused, &mut refused, context)?;
    }
    finish(&refused)
}

async fn discard(args: DiscardArgs, context: &mut Context) -> Result<(), Error> {
    let chosen = Chosen::of(args.which)?;
    if !args.yes && !ask::can_ask() {
        return Err(Error::Usage(
            "what is discarded is never called: without a terminal to ask on, say --yes".to_owned(),
        ));
    }
    let client = context.connect().await?;
    let requests = chosen.requests(&client).await?;
    if !args.yes {
        let count = count(&client, &requests).await?;
        if !ask::confirm(&format!("Discard {count} dead letters, which are then never called?"))? {
            return Err(Error::Failed("nothing was discarded".to_owned()));
        }
    }
    let mut refused = Vec::new();
    for ((class, partition), letters) in requests {
        let (cls_id, partition_id, all) = (class.clone(), partition.into(), letters.is_empty());
        let reason = args.reason.clone();
        let request = v1::DiscardRequest { cls_id, partition_id, letters, reason, all };
        let answer = client.calls().discard(request).await?.into_inner();
        let done = Done { class, partition, what: "discarded", count: answer.discarded };
        show_done(&done, &answer.refused, &mut refused, context)?;
    }
    finish(&refused)
}

/// Shows at once what was done in a partition: the next one may refuse.
fn show_done(
    done: &Done,
    reason: &str,
    refused: &mut Vec<String>,
    context: &mut Context,
) -> Result<(), Error> {
    context.output.item(done)?;
    context.output.flush()?;
    if !reason.is_empty() {
        refused.push(format!("{}/{}: {reason}", done.class, done.partition));
    }
    Ok(())
}

/// Says of which partitions only a part was done.
fn finish(refused: &[String]) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::Unavailable(format!("not all of it was done: {}", refused.join("; "))))
}

/// What was chosen: letters by their partition, or partitions as a whole.
#[derive(Debug, PartialEq)]
enum Chosen {
    Letters(Requests),
    All(Vec<ClassAddress>),
}

/// By class and partition the letters, or none for all of them.
type Requests = BTreeMap<(String, u16), Vec<v1::LetterId>>;

impl Chosen {
    fn of(which: Which) -> Result<Self, Error> {
        let (mut letters, mut all) = (Requests::new(), Vec::new());
        for address in which.addresses {
            match address {
                LettersAddress::One(LetterAddress { record, index }) => {
                    let place = (record.partition.class, record.partition.partition);
                    let of_partition: &mut Vec<_> = letters.entry(place).or_default();
                    let id = v1::LetterId { offset: record.offset, index };
                    if !of_partition.contains(&id) {
                        of_partition.push(id);
                    }
                }
                LettersAddress::All(address) => all.push(address),
            }
        }
        match (which.all, letters.is_empty(), all.is_empty()) {
            (false, false, true) => Ok(Self::Letters(letters)),
            (true, true, false) => Ok(Self::All(all)),
            (true, ..) => Err(Error::Usage(
                "with --all name collections or partitions, CLASS or CLASS/PARTITION, and no single dead letters"
                    .to_owned(),
            )),
            (false, ..) => Err(Error::Usage(format!(
                "{} stands for many dead letters: name one, such as demo/0/17/0, or say --all",
                all.first().map_or_else(String::new, ToString::to_string)
            ))),
        }
    }

    async fn requests(self, client: &Client) -> Result<Requests, Error> {
        let addresses = match self {
            Self::Letters(letters) => return Ok(letters),
            Self::All(addresses) => addresses,
        };
        let mut requests = Requests::new();
        for address in addresses {
            for partition in client.partitions(&address).await? {
                requests.insert((address.class.clone(), partition), Vec::new());
            }
        }
        Ok(requests)
    }
}

/// How many letters there are to ask for.
async fn count(client: &Client, requests: &Requests) -> Result<u64, Error> {
    let mut count = 0;
    for ((cls_id, partition), letters) in requests {
        if !letters.is_empty() {
            count += letters.len() as u64;
            continue;
        }
        let partition_id = Some(u32::from(*partition));
        let request = v1::ListCallsRequest { cls_id: cls_id.clone(), partition_id, limit: 1 };
        let totals = client.calls().list_calls(request).await?.into_inner().totals;
        count += totals.iter().map(|totals| totals.dead_letters).sum::<u64>();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(addresses: &[&str], all: bool) -> Result<Chosen, String> {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Chosen::of(Which { addresses, all }).map_err(|error| error.to_string())
    }

    #[test]
    fn letters_are_asked_for_by_partition_and_each_once() {
        let named = chosen(&["demo/0/17/2", "demo/1/3/0", "demo/0/4/0", "demo/0/17/2"], false);
        let id = |offset, index| v1::LetterId { offset, index };
        let expected = Requests::from([
            (("demo".to_owned(), 0), vec![id(17, 2), id(4, 0)]),
            (("demo".to_owned(), 1), vec![id(3, 0)]),
        ]);
        assert_eq!(named, Ok(Chosen::Letters(expected)));
    }

    #[test]
    fn what_was_not_done_is_told_with_the_reason_and_may_be_asked_again() {
        assert!(finish(&[]).is_ok());
        let error = finish(&["demo/0: the outbox has no room".into(), "demo/3: low on space".into()]);
        let error = error.expect_err("a part is left");
        assert_eq!(error.exit_code(), 5);
        insta::assert_snapshot!(error, @"not all of it was done: demo/0: the outbox has no room; demo/3: low on space");
    }

    #[test]
    fn all_of_them_only_where_that_is_said() {
        let whole = |text: &str| text.parse().expect("an address");
        assert_eq!(
            chosen(&["demo", "other/3"], true),
            Ok(Chosen::All(vec![whole("demo"), whole("other/3")]))
        );
        let refusals = [
            chosen(&["demo/0"], false).expect_err("many"),
            chosen(&["demo/0/17/2", "demo"], true).expect_err("both"),
            chosen(&["demo/0/17/2"], true).expect_err("one"),
        ];
        insta::assert_snapshot!(refusals.join("\n"), @"
        demo/0 stands for many dead letters: name one, such as demo/0/17/0, or say --all
        with --all name collections or partitions, CLASS or CLASS/PARTITION, and no single dead letters
        with --all name collections or partitions, CLASS or CLASS/PARTITION, and no single dead letters
        ");
    }
}
