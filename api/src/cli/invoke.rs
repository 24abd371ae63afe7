//! `odgm invoke` and `odgm result`: calling functions, and what came of calls that were only accepted.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use odgm_api::status::OFFSET;
use odgm_proto::{
    odgm::v1,
    oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest},
};
use serde::Serialize;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

use super::{
    address::{CalleeAddress, PartitionAddress},
    answer::{Answered, Ended},
    call::parse_option,
    client::{Client, Context},
    error::Error,
};

/// The server waits no longer for a result than this at a time.
const WAIT_AT_ONCE: Duration = Duration::from_secs(60);

/// The longest that one may ask to wait, in seconds: a year.
const LONGEST_WAIT: u64 = 365 * 24 * 60 * 60;

/// `odgm invoke`.
#[derive(Debug, Args)]
pub(crate) struct InvokeArgs {
    /// What the function is called on: a class, one of its partitions, or an object
    #[arg(value_name = "CLASS[/PARTITION[/OBJECT]]")]
    address: CalleeAddress,
    /// The function
    function: String,
    /// What it is called with, as text
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    payload: Option<String>,
    /// What it is called with, as the bytes of a file; - is standard input
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// An option of the request, which the function gets; may be repeated
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// Have it accepted, and print its id instead of its answer; `odgm result` shows what comes of it
    #[arg(long = "async")]
    is_async: bool,
    /// The id: the same request under the same id is accepted once
    #[arg(long, value_name = "ID", requires = "is_async")]
    id: Option<String>,
    /// Wait for the answer for so many seconds at most
    #[arg(long, value_name = "SECONDS", conflicts_with = "is_async", value_parser = clap::value_parser!(u64).range(1..=LONGEST_WAIT))]
    timeout: Option<u64>,
}

/// `odgm result`.
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// The partition that accepted the call
    #[arg(value_name = "CLASS/PARTITION")]
    address: PartitionAddress,
    /// The id of the call
    id: String,
    /// Wait for its end for so many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=LONGEST_WAIT))]
    wait: u64,
}

/// Help below the options of `odgm invoke`.
pub(crate) const INVOKE_HELP: &str = "\
What the function answers goes to standard output as it is; how the call ended, to standard error. The exit code \
is 1 where it did not complete. CLASS alone stands for its first partition: that one's log keeps how the call ended.

Examples:
  odgm invoke demo/0/alice greet --payload hello
  odgm invoke flights report --payload-file query.json --timeout 5 > report.pdf
  id=$(odgm invoke flights/3 report --async) && odgm result flights/3 \"$id\" --wait 60
  odgm invoke flights/3 report --async --id report-2026-03";

/// Help below the options of `odgm result`.
pub(crate) const RESULT_HELP: &str = "\
The exit code is 0 where the function completed, 1 where it did not or the call was given up, 5 where it waits or \
is being called, 3 where there is no such call, or it is not remembered any more.

Examples:
  odgm result flights/3 report-2026-03
  odgm result flights/3 report-2026-03 --wait 60 --json";

/// `odgm invoke`.
pub(crate) async fn invoke(args: InvokeArgs, context: &mut Context) -> Result<(), Error> {
    let payload = payload(args.payload.clone(), args.payload_file.as_deref())?;
    let client = context.connect().await?;
    if args.is_async {
        let accepted = accept(&client, args, payload).await?;
        let (id, note) = (format!("{}\n", accepted.invocation_id), accepted.note());
        return context.output.answer(&accepted, id.as_bytes(), &note);
    }
    call(&client, args, payload).await?.show(&mut context.output)
}

/// `odgm result`.
pub(crate) async fn result(args: ResultArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let until = Instant::now() + Duration::from_secs(args.wait);
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(WAIT_AT_ONCE);
        let request = v1::GetResultRequest {
            cls_id: args.address.class.clone(),
            partition_id: args.address.partition.into(),
            invocation_id: args.id.clone(),
            wait_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        let found = client.calls().get_result(request).await?.into_inner();
        if found.state != "pending" || left.is_zero() {
            return known(args.address, found).show(&mut context.output);
        }
    }
}

fn known(address: PartitionAddress, found: v1::GetResultResponse) -> Answered {
    let PartitionAddress { class, partition } = address;
    Answered {
        class,
        partition,
        object: found.object_id,
        function: found.fn_id,
        invocation_id: found.invocation_id,
        state: found.state,
        ended: found.outcome.map(Ended::from),
        reason: found.reason,
        accepted_offset: Some(found.accepted_offset),
        offset: found.ended_offset,
    }
}

fn payload(text: Option<String>, file: Option<&Path>) -> Result<Bytes, Error> {
    let Some(path) = file else { return Ok(text.unwrap_or_default().into()) };
    if path != Path::new("-") {
        return fs::read(path).map(Bytes::from).map_err(|error| Error::file("read", path, &error));
    }
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| Error::file("read", Path::new("standard input"), &error))?;
    Ok(bytes.into())
}

async fn call(client: &Client, args: InvokeArgs, payload: Bytes) -> Result<Answered, Error> {
    let InvokeArgs { address, function, options, timeout, .. } = args;
    let options = options.into_iter().collect();
    let within = timeout.map(Duration::from_secs);
    let CalleeAddress { class: cls_id, partition, object } = address.clone();
    let (partition_id, fn_id) = (partition.into(), function.clone());
    let answer = match object {
        None => {
            let message = InvocationRequest { partition_id, cls_id, fn_id, options, payload };
            client.functions().invoke_fn(within_time(message, within)).await
        }
        Some(object) => {
            let message = ObjectInvocationRequest {
                partition_id,
                object_id: 0,
                cls_id,
                fn_id,
                options,
                payload,
                object_id_str: Some(object),
            };
            client.functions().invoke_obj(within_time(message, within)).await
        }
    };
    let answer = answer.map_err(|status| refused(status, within))?;
    Ok(answered(Answered::of(address, function), answer))
}

fn within_time<T>(message: T, within: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(within) = within {
        request.set_timeout(within);
    }
    request
}

/// The client of the gRPC library itself gives up in the same moment, and calls it cancelled.
fn refused(status: Status, within: Option<Duration>) -> Error {
    match (status.code(), within) {
        (Code::Cancelled | Code::DeadlineExceeded, Some(within)) => Error::Unavailable(format!(
            "no answer within {} s: the function may have run all the same",
            within.as_secs()
        )),
        _ => status.into(),
    }
}

fn answered(call: Answered, answer: Response<InvocationResponse>) -> Answered {
    let offset = offset(answer.metadata());
    let mut response = answer.into_inner();
    let invocation_id = std::mem::take(&mut response.invocation_id);
    Answered { invocation_id, ended: Some(response.into()), offset, ..call }
}

/// The record of how the call ended.
fn offset(beside: &MetadataMap) -> Option<u64> {
    beside.get(OFFSET)?.to_str().ok()?.parse().ok()
}

async fn accept(client: &Client, args: InvokeArgs, payload: Bytes) -> Result<Accepted, Error> {
    let CalleeAddress { class, partition, object } = args.address;
    let request = v1::InvokeRequest {
        cls_id: class.clone(),
        partition_id: partition.into(),
        object_id: object,
        fn_id: args.function,
        options: args.options.into_iter().collect(),
        payload,
        invocation_id: args.id.unwrap_or_default(),
    };
    let v1::InvokeResponse { invocation_id, offset } = client.calls().invoke(request).await?.into_inner();
    Ok(Accepted { class, partition, invocation_id, offset })
}

/// A call that was accepted.
#[derive(Debug, Serialize)]
struct Accepted {
    class: String,
    partition: u16,
    invocation_id: String,
    offset: u64,
}

impl Accepted {
    fn note(&self) -> String {
        let Self { class, partition, invocation_id, offset } = self;
        format!("accepted  offset {offset}  see `odgm result {class}/{partition} {invocation_id}`")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InvokeArgs,
    }

    fn parse(line: &str) -> Result<InvokeArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    #[test]
    fn only_what_is_accepted_has_an_id_and_only_what_is_waited_for_a_timeout() {
        let args =
            parse("invoke demo/0/Alice count --option accept=text/plain --option a=b=c").expect("valid");
        assert_eq!(args.address.object.as_deref(), Some("alice"));
        let options = [("accept", "text/plain"), ("a", "b=c")];
        assert_eq!(args.options, options.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(parse("invoke demo count --async --id i-1").is_ok());
        for wrong in
            ["--id i-1", "--async --timeout 3", "--timeout 0", "--option x", "--payload a --payload-file b"]
        {
            assert!(parse(&format!("invoke demo count {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_accepted_call_says_how_to_ask_for_its_result() {
        let accepted =
            Accepted { class: "demo".into(), partition: 3, invocation_id: "i-1".into(), offset: 17 };
        insta::assert_snapshot!(accepted.note(), @"accepted  offset 17  see `odgm result demo/3 i-1`");
        insta::assert_json_snapshot!(accepted, @r#"
        {
          "class": "demo",
          "partition": 3,
          "invocation_id": "i-1",
          "offset": 17
        }
        "#);
    }

    #[test]
    fn an_answer_has_its_offset_beside_it() {
        let message = InvocationResponse {
            payload: Some("3".into()),
            status: odgm_proto::oprc::ResponseStatus::Okay.into(),
            invocation_id: "c-9".into(),
            ..Default::default()
        };
        let mut answer = Response::new(message);
        answer.metadata_mut().insert(OFFSET, 17.into());
        let call = Answered::of("demo/0/alice".parse().expect("an address"), "count".into());
        let answered = answered(call, answer);
        assert_eq!((answered.offset, answered.invocation_id.as_str()), (Some(17), "c-9"));
    }

    #[test]
    fn nobody_waits_for_longer_than_a_clock_goes() {
        #[derive(Debug, clap::Parser)]
        struct Results {
            #[command(flatten)]
            args: ResultArgs,
        }
        let parse = |wait: &str| {
            let line = ["result", "demo/0", "report", "--wait", wait];
            <Results as clap::Parser>::try_parse_from(line).map(|line| line.args.wait)
        };
        assert_eq!(parse("31536000").expect("a year"), LONGEST_WAIT);
        assert!(parse("18446744073709551615").is_err());
    }

    #[test]
    fn who_waits_no_longer_is_told_that_the_function_may_have_run() {
        let error = refused(Status::cancelled("Timeout expired"), Some(Duration::from_secs(3)));
        insta::assert_snapshot!(error, @"no answer within 3 s: the function may have run all the same");
        assert_eq!(refused(Status::not_found("no route"), None).exit_code(), 3);
    }
}
