//! What the test binaries share: collections, commands and nodes.

#![allow(clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use odgm_log::body::{SetValues, Value};
use odgm_log::{Body, Cause, Payload};
use odgm_proto::oprc::CreateCollectionRequest;
use odgm_replication::{Definition, Manager, Options, Partition};

pub(crate) fn definition(name: &str, partitions: i32, options: &[(&str, &str)]) -> Definition {
    Definition::from_wire(CreateCollectionRequest {
        name: name.into(),
        partition_count: partitions,
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    })
    .expect("a valid definition")
}

pub(crate) fn put(object: &str, key: &str, value: &str) -> Payload {
    let body = Body::SetValues(SetValues {
        object: object.into(),
        puts: vec![(key.into(), Value::bytes(value.to_owned()))],
        deletes: Vec::new(),
        expected_version: None,
    });
    Payload { cause: Cause::default(), body }
}

pub(crate) async fn start(dir: &Path) -> Arc<Manager> {
    let manager = Manager::open(Options::new(dir)).await.expect("the node starts");
    manager.ready().await;
    manager
}

pub(crate) async fn collection(
    manager: &Arc<Manager>,
    name: &str,
    options: &[(&str, &str)],
) -> Arc<Partition> {
    manager.create_collection(definition(name, 1, options)).await.expect("created");
    manager.partition(name, 0).expect("in service")
}
