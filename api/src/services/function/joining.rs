//! Calls of the same request: while one is being made, whoever asks for it again waits for its end.
//!
//! This is of one node. Of two nodes that call for the same request at once, the first record counts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use odgm_log::GroupId;
use odgm_proto::metadata::REQUEST_ID;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

use super::ended::Ended;

/// How a call ended, as its client was told.
type Told = Result<Ended, Status>;

/// A partition, and the id of a request there.
type Key = (GroupId, String);

/// The requests whose calls are being made. There are no more than calls of clients.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<HashMap<Key, UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    /// What tells the request from others.
    fingerprint: String,
    told: watch::Receiver<Option<Told>>,
}

/// Who makes the call of a request, given up when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    requests: Arc<Requests>,
    key: Key,
    told: watch::Sender<Option<Told>>,
}

impl Requests {
    /// Waits for the call of this request that is being made, if one is: how it ended; else it is the caller's turn.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, if that call is of another request.
    pub(super) async fn join(
        self: &Arc<Self>,
        group: GroupId,
        id: &str,
        fingerprint: &str,
    ) -> Result<Result<Told, Turn>, Status> {
        loop {
            let mut under_way = match self.enter(group, id, fingerprint)? {
                Ok(turn) => return Ok(Err(turn)),
                Err(under_way) => under_way,
            };
            // An error says that it was given up before it was called.
            if let Ok(told) = under_way.wait_for(Option::is_some).await
                && let Some(told) = told.as_ref()
            {
                return Ok(Ok(told.clone()));
            }
        }
    }

    fn enter(
        self: &Arc<Self>,
        group: GroupId,
        id: &str,
        fingerprint: &str,
    ) -> Result<Result<Turn, watch::Receiver<Option<Told>>>, Status> {
        let key = (group, id.to_owned());
        let mut all = self.0.lock();
        match all.entry(key.clone()) {
            Entry::Occupied(known) if known.get().fingerprint == fingerprint => {
                Ok(Err(known.get().told.clone()))
            }
            Entry::Occupied(_) => Err(Status::invalid_argument(format!(
                "{REQUEST_ID} is that of a call under way for a different request: expected a new id for a new call"
            ))),
            Entry::Vacant(free) => {
                let (sender, told) = watch::channel(None);
                free.insert(UnderWay { fingerprint: fingerprint.to_owned(), told });
                Ok(Ok(Turn { requests: Arc::clone(self), key, told: sender }))
            }
        }
    }
}

impl Turn {
    /// Tells those who wait how the call ended.
    pub(super) fn end(self, told: Told) {
        self.told.send_replace(Some(told));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.requests.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use odgm_log::Offset;
    use tonic::Code;

    use super::*;

    const HERE: GroupId = GroupId(3);

    fn ended() -> Ended {
        Ended { invocation: "i".into(), offset: Offset(7), finished: Default::default() }
    }

    async fn turn(requests: &Arc<Requests>, group: GroupId, id: &str) -> Turn {
        requests.join(group, id, "f").await.expect("no other request").expect_err("nobody makes it")
    }

    #[tokio::test]
    async fn whoever_asks_again_is_told_what_the_first_is_told() {
        let requests = Arc::new(Requests::default());
        let first = turn(&requests, HERE, "order-17").await;
        let again = || {
            let requests = Arc::clone(&requests);
            let mut joined = Box::pin(async move { requests.join(HERE, "order-17", "f").await });
            assert!(joined.as_mut().now_or_never().is_none(), "it waits");
            joined
        };
        let waiting = [again(), again()];
        let other = requests.join(HERE, "order-17", "g").await.expect_err("another request of that id");
        assert_eq!(other.code(), Code::InvalidArgument);
        drop((turn(&requests, GroupId(4), "order-17").await, turn(&requests, HERE, "order-18").await));

        first.end(Ok(ended()));
        for joined in waiting {
            let told = joined.await.expect("no other request").expect("told");
            assert_eq!(told.expect("an end"), ended());
        }
        drop(turn(&requests, HERE, "order-17").await);
        assert!(requests.0.lock().is_empty(), "what has ended is forgotten");
    }

    #[tokio::test]
    async fn where_the_first_gives_up_one_of_those_who_wait_makes_the_call() {
        let requests = Arc::new(Requests::default());
        let first = turn(&requests, HERE, "order-17").await;
        let mut one = Box::pin(requests.join(HERE, "order-17", "f"));
        let mut other = Box::pin(requests.join(HERE, "order-17", "f"));
        assert!(one.as_mut().now_or_never().is_none() && other.as_mut().now_or_never().is_none());
        drop(first);
        let turn = one.await.expect("no other request").expect_err("its turn");
        assert!(other.as_mut().now_or_never().is_none(), "it waits for the second");
        turn.end(Err(Status::unavailable("left alone")));
        let told = other.await.expect("no other request").expect("told");
        assert_eq!(told.expect_err("refused").message(), "left alone");
    }
}
