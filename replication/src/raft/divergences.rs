//! A replica that is made to differ is found, named, and taken out of service, until it has been mended.

use std::path::Path;
use std::time::Duration;

use odgm_log::body::{SetValues, Value};
use odgm_log::store::{LogStore, Options, ReadLimit};
use odgm_log::{Body, BodyType, Cause, NodeId, Offset, Payload, Record};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Committed, View, ViewOptions};

use super::checkpoints::{Differing, Divergence};
use super::scenarios::{ALL, Cluster, GROUP, others, patiently};
use crate::reading::{Consistency, ReadError};
use crate::replicator::Replicator as _;

fn open_log(dir: &Path) -> LogStore {
    let options = Options { free_space_reserve: 0, ..Options::default() };
    LogStore::open(&dir.join("log"), options).expect("a log store")
}

fn records(store: &LogStore, from: Offset) -> Vec<Record> {
    let limit = ReadLimit { records: usize::MAX, bytes: usize::MAX };
    store.read(GROUP, from, limit).expect("readable")
}

/// The record with another value in it, as if a bit had fallen over before checksums were made.
fn otherwise(record: &Record) -> Record {
    assert_eq!(record.kind.body_type, BodyType::SetValues);
    let body = Body::SetValues(SetValues {
        object: "o".into(),
        puts: vec![("k".into(), Value::bytes("something else"))],
        deletes: Vec::new(),
        expected_version: None,
    });
    let (kind, payload) = Payload { cause: Cause::default(), body }.encode().expect("a record");
    Record { kind, payload, ..record.clone() }
}

/// Changes a record of a stopped node, with all checksums right. Its view follows.
fn change_log(dir: &Path, at: Offset) {
    let store = open_log(dir);
    let mut rest = records(&store, at);
    rest[0] = otherwise(&rest[0]);
    store.truncate_after(GROUP, at.previous()).expect("truncated");
    store.append(GROUP, &rest, Box::new(drop)).expect("appended");
    store.close().expect("closed");
    std::fs::remove_dir_all(dir.join("views")).expect("removed");
}

/// Makes the view of a stopped node from its log, but for one record, which is applied as another one.
fn change_view(dir: &Path, at: Offset) {
    let store = open_log(dir);
    std::fs::remove_dir_all(dir.join("views")).expect("removed");
    let view = View::open(&ViewOptions {
        group: GROUP,
        engine: Engine::RocksDb,
        dir: dir.join("views/0"),
        snapshots: dir.join("snapshots"),
        resources: Resources::default(),
    });
    let view = view.expect("a view");
    for record in records(&store, Offset(1)) {
        let chain = store.chain_at(GROUP, record.offset).expect("a chain");
        let record = if record.offset == at { otherwise(&record) } else { record };
        let payload = record.decode().expect("a payload");
        view.apply(&[Committed { record, payload, chain }]).expect("applied");
    }
    view.flush().expect("flushed");
    store.close().expect("closed");
}

/// Writes on whoever of `nodes` leads, and answers where the last write is.
async fn write(cluster: &Cluster, nodes: &[NodeId], count: u64) -> Offset {
    let mut last = Offset::ZERO;
    for n in 0..count {
        last = cluster.write(nodes, "o", &n.to_string()).await.expect("acknowledged").offset;
    }
    last
}

/// What all nodes are told, once they are told the same.
async fn told(cluster: &Cluster) -> Divergence {
    patiently(async {
        loop {
            let told = ALL.map(|node| cluster.group(node).told().borrow().clone());
            if let [Some(one), Some(other), Some(third)] = &told
                && one == other
                && other == third
            {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

async fn is_out_of_service(cluster: &Cluster, odd: NodeId) {
    for consistency in [Consistency::Linearizable, Consistency::Lease, Consistency::Local] {
        let refused = cluster.group(odd).confirm(consistency).expect("it is asked").await;
        let refused = refused.expect_err("its view is not what the others have");
        assert!(matches!(refused, ReadError::Diverged { .. }), "{refused}");
        assert!(refused.to_string().contains(&format!("on node {odd} differs")), "{refused}");
    }
    for node in others(odd) {
        cluster.confirm(node, Consistency::Linearizable).await.expect("the others read");
    }
    // It keeps what is written, and votes.
    let third = others(odd)[0];
    let last = cluster.write(&others(odd), "o", "goes on").await.expect("acknowledged").offset;
    assert!(cluster.applied(third, last).await.applied >= last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_differs_on_one_replica_is_named() {
    let mut cluster = Cluster::start_forwarding(11).await;
    let last = write(&cluster, &ALL, 40).await;
    let odd = others(cluster.leader_of(&ALL).await)[0];
    cluster.expect_equal(last).await;
    cluster.end(odd).await;
    let at = Offset(last.0 - 25);
    change_log(&cluster.dir_of(odd), at);
    cluster.begin(odd).await;
    let divergence = told(&cluster).await;
    assert_eq!(divergence.odd, [odd].into(), "{divergence}");
    assert_eq!(divergence.compared, ALL.into(), "{divergence}");
    assert_eq!(
        (divergence.differing, divergence.equal, divergence.differs),
        (Differing::Log, at.previous(), at)
    );
    is_out_of_service(&cluster, odd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_differs_on_one_replica_is_named_until_it_is_rebuilt() {
    let mut cluster = Cluster::start_forwarding(12).await;
    let last = write(&cluster, &ALL, 40).await;
    let odd = others(cluster.leader_of(&ALL).await)[0];
    cluster.expect_equal(last).await;
    cluster.end(odd).await;
    change_view(&cluster.dir_of(odd), Offset(last.0 - 25));
    cluster.begin(odd).await;
    let divergence = told(&cluster).await;
    assert_eq!((divergence.differing, &divergence.odd), (Differing::View, &[odd].into()), "{divergence}");
    is_out_of_service(&cluster, odd).await;

    // Even if all that could lead instead are gone, it does not.
    let leader = cluster.leader_of(&others(odd)).await;
    assert_ne!(leader, odd);
    let raft = cluster.group(leader).raft().clone();
    raft.trigger().transfer_leader(odd.0).await.expect("asked for");
    assert_ne!(cluster.leader_of(&others(odd)).await, odd);

    cluster.end(odd).await;
    std::fs::remove_dir_all(cluster.dir_of(odd).join("views")).expect("removed");
    cluster.begin(odd).await;
    patiently(async {
        while ALL.iter().any(|node| cluster.group(*node).told().borrow().is_some()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let last = write(&cluster, &ALL, 1).await;
    cluster.expect_equal(last).await;
    cluster.confirm(odd, Consistency::Linearizable).await.expect("it is in service again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_view_differs_lets_another_one_lead() {
    let mut cluster = Cluster::start_forwarding(13).await;
    let last = write(&cluster, &ALL, 10).await;
    cluster.expect_equal(last).await;
    for node in ALL {
        cluster.end(node).await;
    }
    let odd = NodeId(2);
    change_view(&cluster.dir_of(odd), last);
    // Of two nobody can tell which is wrong: either may lead.
    for node in [odd, NodeId(3)] {
        cluster.begin(node).await;
    }
    cluster.lead(&[odd, NodeId(3)], odd).await;
    patiently(async {
        let mut divergence = cluster.group(NodeId(3)).told().subscribe();
        divergence.wait_for(Option::is_some).await.expect("the member runs");
    })
    .await;
    cluster.confirm(NodeId(3), Consistency::Linearizable).await.expect("nobody is out of service");

    cluster.begin(NodeId(1)).await;
    patiently(async {
        while cluster.group(odd).is_odd().is_none() || cluster.group(NodeId(1)).leader() == Some(odd) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_ne!(cluster.leader_of(&others(odd)).await, odd);
}
