//! A node in this process, on a directory that is thrown away.

use std::ffi::OsString;
use std::path::Path;

use odgm_api::Node;
use odgm_api::config::Config;
use odgm_proto::odgm::v1::admin_client::AdminClient;
use odgm_proto::odgm::v1::calls_client::CallsClient;
use odgm_proto::odgm::v1::streams_client::StreamsClient;
use odgm_proto::odgm::v1::writes_client::WritesClient;
use odgm_proto::odgm::v1::{CreateCollectionRequest, GetNodeRequest};
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::{
    self, BatchSetValuesRequest, InvocationRoute, ObjData, SetKeyRequest, SetObjectRequest, SingleKeyRequest,
    SingleObjectRequest, ValData,
};
use tempfile::TempDir;
use tonic::transport::Channel;

/// The collection that every test node has, with two partitions.
pub(crate) const THINGS: &str = "things";

pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) channel: Channel,
    dir: TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder")).await
    }

    async fn start_in(dir: TempDir) -> Self {
        let node = Node::start(config(dir.path(), &[])).await.expect("a node");
        node.ready().await;
        let endpoint = Channel::from_shared(format!("http://{}", node.local_addr())).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        Self { node, channel, dir }
    }

    /// Stops the node in order and starts another one on its directory.
    pub(crate) async fn restart(self) -> Self {
        let Self { node, channel, dir } = self;
        drop(channel);
        node.shutdown();
        node.wait().await.expect("an orderly stop");
        Self::start_in(dir).await
    }

    pub(crate) fn data(&self) -> DataServiceClient<Channel> {
        DataServiceClient::new(self.channel.clone())
    }

    pub(crate) fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone())
    }

    pub(crate) fn writes(&self) -> WritesClient<Channel> {
        WritesClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    pub(crate) fn functions(&self) -> OprcFunctionClient<Channel> {
        OprcFunctionClient::new(self.channel.clone())
    }

    pub(crate) fn calls(&self) -> CallsClient<Channel> {
        CallsClient::new(self.channel.clone())
    }

    /// One of the node's own figures.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let described = self.admin().get_node(GetNodeRequest {}).await.expect("an answer").into_inner();
        let found = described.metrics.iter().find(|metric| metric.name == name);
        found.unwrap_or_else(|| panic!("no figure {name}")).value
    }

    /// Creates a collection of one partition.
    pub(crate) async fn create(
        &self,
        name: &str,
        invocations: Option<InvocationRoute>,
        options: &[(&str, &str)],
    ) {
        let collection = oprc::CreateCollectionRequest {
            name: name.into(),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            invocations,
            ..Default::default()
        };
        let create = CreateCollectionRequest { collection: Some(collection) };
        self.admin().create_collection(create).await.expect("a collection");
        self.node.ready().await;
    }
}

/// The settings of a test node, and some more.
pub(crate) fn config(dir: &Path, more: &[(&str, &str)]) -> Config {
    let lookup = |name: &str| -> Option<OsString> {
        if let Some((_, value)) = more.iter().find(|(other, _)| *other == name) {
            return Some(value.into());
        }
        match name {
            "ODGM_DATA_DIR" => Some(dir.join("data").into()),
            "ODGM_HTTP_HOST" => Some("127.0.0.1".into()),
            "ODGM_HTTP_PORT" => Some("0".into()),
            "ODGM_FREE_SPACE_RESERVE" => Some("0".into()),
            "ODGM_REFLECTION_ENABLED" => Some("true".into()),
            "ODGM_COLLECTION" => Some(format!(r#"[{{"name": "{THINGS}", "partition_count": 2}}]"#).into()),
            _ => None,
        }
    };
    Config::from_lookup(lookup).expect("a configuration")
}

pub(crate) fn data(text: &str) -> ValData {
    ValData { data: text.to_owned().into(), r#type: 0 }
}

pub(crate) fn text(value: Option<&ValData>) -> &str {
    value.map_or("-", |value| std::str::from_utf8(&value.data).expect("text"))
}

pub(crate) fn object(entries: &[(&str, &str)]) -> ObjData {
    let entries_str = entries.iter().map(|(key, value)| ((*key).to_owned(), data(value))).collect();
    ObjData { entries_str, ..Default::default() }
}

pub(crate) fn set(id: &str, entries: &[(&str, &str)]) -> SetObjectRequest {
    SetObjectRequest {
        cls_id: THINGS.into(),
        object_id_str: Some(id.into()),
        object: Some(object(entries)),
        ..Default::default()
    }
}

pub(crate) fn one(id: &str) -> SingleObjectRequest {
    SingleObjectRequest { cls_id: THINGS.into(), object_id_str: Some(id.into()), ..Default::default() }
}

pub(crate) fn entry(id: &str, key: &str) -> SingleKeyRequest {
    SingleKeyRequest {
        cls_id: THINGS.into(),
        object_id_str: Some(id.into()),
        key_str: Some(key.into()),
        ..Default::default()
    }
}

pub(crate) fn put(id: &str, key: &str, value: &str) -> SetKeyRequest {
    SetKeyRequest {
        cls_id: THINGS.into(),
        object_id_str: Some(id.into()),
        key_str: Some(key.into()),
        value: Some(data(value)),
        ..Default::default()
    }
}

pub(crate) fn batch(
    id: &str,
    puts: &[(&str, &str)],
    deletes: &[&str],
    expected: Option<u64>,
) -> BatchSetValuesRequest {
    BatchSetValuesRequest {
        cls_id: THINGS.into(),
        object_id_str: Some(id.into()),
        values: object(puts).entries_str,
        delete_keys: deletes.iter().map(|key| (*key).to_owned()).collect(),
        expected_object_version: expected,
        ..Default::default()
    }
}

/// A number in the metadata of a response.
pub(crate) fn number(metadata: &tonic::metadata::MetadataMap, name: &str) -> u64 {
    let value = metadata.get(name).unwrap_or_else(|| panic!("{name} in {metadata:?}"));
    value.to_str().expect("ASCII").parse().expect("a number")
}
