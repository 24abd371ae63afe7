//! `odgm stats`: the node's own figures.

use odgm_proto::{odgm::v1, oprc};
use serde::Serialize;

use super::{
    client::Context,
    error::Error,
    output::{Human, Style, Table},
};

/// `odgm stats`.
pub(crate) async fn run(context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let node = client.admin().get_node(v1::GetNodeRequest {}).await?.into_inner();
    let shards = client.data().stats(oprc::StatsRequest {}).await?.into_inner().shards;
    context.output.document(&Stats::new(node, shards))
}

#[derive(Debug, Serialize)]
struct Stats {
    node_id: u64,
    version: String,
    partitions: Vec<PartitionCount>,
    metrics: Vec<Metric>,
}

#[derive(Debug, Serialize)]
struct PartitionCount {
    class: String,
    partition: u32,
    objects: u64,
}

#[derive(Debug, Serialize)]
struct Metric {
    name: String,
    value: f64,
    help: String,
}

impl Stats {
    fn new(node: v1::GetNodeResponse, shards: Vec<oprc::ShardStats>) -> Self {
        let partitions = shards.into_iter().map(|shard| PartitionCount {
            class: shard.collection,
            partition: shard.partition_id,
            objects: shard.count,
        });
        let metrics = node.metrics.into_iter().map(|metric| Metric {
            name: metric.name,
            value: metric.value,
            help: metric.help,
        });
        Self {
            node_id: node.node_id,
            version: node.version,
            partitions: partitions.collect(),
            metrics: metrics.collect(),
        }
    }
}

impl Human for Stats {
    fn human(&self, style: Style) -> String {
        let mut text = format!("node {}, version {}\n", self.node_id, self.version);
        if !self.partitions.is_empty() {
            let mut table = Table::new(&["PARTITION", "OBJECTS"]);
            for PartitionCount { class, partition, objects } in &self.partitions {
                table.row(vec![format!("{class}/{partition}").into(), (*objects).into()]);
            }
            text += &format!("\n{}", table.render(style));
        }
        if !self.metrics.is_empty() {
            let mut table = Table::new(&["METRIC", "VALUE", "MEANING"]);
            for Metric { name, value, help } in &self.metrics {
                table.row(vec![name.as_str().into(), (*value).into(), help.as_str().into()]);
            }
            text += &format!("\n{}", table.render(style));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_partitions_and_metrics() {
        let metric =
            |name: &str, value: f64, help: &str| v1::Metric { name: name.into(), value, help: help.into() };
        let node = v1::GetNodeResponse {
            node_id: 7,
            version: "0.1.0".into(),
            metrics: vec![
                metric("log_fsyncs", 1_204.0, "fsyncs of the log"),
                metric("disk_free_bytes", 2.5e9, "free space of the data directory, bytes"),
            ],
        };
        let shard = oprc::ShardStats { collection: "demo".into(), partition_id: 0, shard_id: 1, count: 3 };
        insta::assert_snapshot!(Stats::new(node, vec![shard]).human(Style::PLAIN), @"
        node 7, version 0.1.0

        PARTITION  OBJECTS
        demo/0           3

        METRIC                VALUE  MEANING
        log_fsyncs             1204  fsyncs of the log
        disk_free_bytes  2500000000  free space of the data directory, bytes
        ");
    }
}
