//! Records of a log as they are shown: `odgm partition log` and `odgm log dump`.

use clap::Args;
use odgm_api::record_json::log_record;
use odgm_log::Record;
use odgm_proto::odgm::v1;
use serde::Serialize;
use serde_json::Value;

use super::{
    address::PartitionAddress,
    client::Context,
    error::Error,
    output::{Human, Style, Tint},
    time,
};

/// Which records.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Range {
    /// From this offset on
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) from: u64,
    /// At most so many; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) limit: u64,
}

/// The records of a partition of a running node.
pub(crate) async fn online(
    address: PartitionAddress,
    range: Range,
    context: &mut Context,
) -> Result<(), Error> {
    let client = context.connect().await?;
    let request = v1::DumpLogRequest {
        cls_id: address.class,
        partition_id: address.partition.into(),
        from_offset: range.from,
        limit: range.limit,
    };
    let mut stream = client.admin().dump_log(request).await?.into_inner();
    while let Some(record) = stream.message().await? {
        context.output.item(&RecordView::new(record)?)?;
    }
    context.output.flush()
}

/// A record: one line.
#[derive(Debug, Serialize)]
pub(crate) struct RecordView {
    offset: u64,
    term: u64,
    stamp: String,
    origin: u64,
    #[serde(rename = "type")]
    body_type: String,
    payload_bytes: u64,
    record: Value,
}

impl RecordView {
    /// A record as it was read from a log.
    pub(crate) fn of(record: &Record) -> Result<Self, Error> {
        let described = log_record(record)
            .map_err(|error| Error::Failed(format!("record {} cannot be shown: {error}", record.offset)))?;
        Self::new(described)
    }

    /// As the server describes it.
    pub(crate) fn new(record: v1::LogRecord) -> Result<Self, Error> {
        let offset = record.offset;
        let json = serde_json::from_str(&record.json).map_err(|error| {
            Error::Failed(format!("the server's description of record {offset} is not JSON: {error}"))
        })?;
        Ok(Self {
            offset,
            term: record.term,
            stamp: time::format_ms(record.stamp_us / 1_000),
            origin: record.origin,
            body_type: record.body_type,
            payload_bytes: record.payload_bytes,
            record: json,
        })
    }
}

impl Human for RecordView {
    fn human(&self, style: Style) -> String {
        let Self { offset, stamp, body_type, payload_bytes, record, .. } = self;
        let head = style.paint(Tint::Faint, &format!("#{offset} {stamp}"));
        format!("{head}  {body_type}  {payload_bytes} B  {record}\n")
    }
}
