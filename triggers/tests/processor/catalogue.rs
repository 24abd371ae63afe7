//! What the catalogue says, confirmed.

use std::sync::Arc;

use futures_util::future::join_all;
use odgm_triggers::{Catalogue as _, ConfirmedCatalogue};

use crate::support::{Functions, Node};

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_the_catalogue_is_seen_by_whoever_asks_afterwards() {
    let (dir, functions) = (tempfile::tempdir().expect("a folder"), Functions::new());
    let node = Node::start(dir.path(), &functions).await;
    let catalogue = ConfirmedCatalogue::new(Arc::clone(&node.manager));
    for _ in 0..3 {
        let asked = join_all((0..50).map(|_| catalogue.confirm("here"))).await;
        assert!(asked.into_iter().all(|found| matches!(found, Ok(None))), "there is none");
        node.collection("here", &[]).await;
        let asked = join_all((0..50).map(|_| catalogue.confirm("here"))).await;
        assert!(asked.into_iter().all(|found| matches!(found, Ok(Some(_)))), "there is one");
        node.manager.delete_collection("here").await.expect("deleted");
    }
    node.stop().await;
}
