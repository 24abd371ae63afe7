//! A client that speaks Zenoh.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use odgm_proto::oprc::{BatchSetValuesRequest, ObjData};
use odgm_tests::Result;
use odgm_tests::harness::text;
use odgm_tests::random::Random;
use prost::Message;
use tokio::sync::mpsc;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, QueryTarget};
use zenoh::{Config, Session};

/// How long something that is sure to happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a query carries besides its key.
#[derive(Clone, Default)]
pub(crate) struct With {
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) attachment: Option<Vec<u8>>,
    pub(crate) everybody: bool,
}

/// One reply: its key, payload and attachment; or the text of an error.
pub(crate) type Reply = std::result::Result<(String, Vec<u8>, Vec<u8>), String>;

#[derive(Clone)]
pub(crate) struct Client(pub(crate) Session);

impl Client {
    /// A peer that knows these nodes and looks for no others.
    pub(crate) async fn peer(ports: &[u16]) -> Result<Self> {
        Self::open("peer", ports).await
    }

    /// A client of one node.
    pub(crate) async fn client(port: u16) -> Result<Self> {
        Self::open("client", &[port]).await
    }

    async fn open(mode: &str, ports: &[u16]) -> Result<Self> {
        let endpoints: Vec<String> = ports.iter().map(|port| format!("\"tcp/127.0.0.1:{port}\"")).collect();
        let mut config = Config::default();
        for (key, value) in [
            ("mode", format!("\"{mode}\"")),
            ("connect/endpoints", format!("[{}]", endpoints.join(","))),
            ("listen/endpoints", "[]".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("scouting/gossip/enabled", "false".to_owned()),
        ] {
            config.insert_json5(key, &value)?;
        }
        Ok(Self(zenoh::open(config).await?))
    }

    /// All replies to a query, as those clients ask that are in the field.
    pub(crate) async fn ask(&self, selector: &str, with: With) -> Result<Vec<Reply>> {
        let (sender, mut replies) = mpsc::unbounded_channel();
        let target = if with.everybody { QueryTarget::All } else { QueryTarget::BestMatching };
        let query = self.0.get(selector).target(target).consolidation(ConsolidationMode::None);
        let query = query.timeout(Duration::from_secs(10)).attachment(with.attachment);
        let query = match with.payload {
            Some(payload) => query.payload(payload),
            None => query,
        };
        query.callback(move |reply| drop(sender.send(reply))).await?;
        let mut all = Vec::new();
        // The callback is dropped with the last reply.
        while let Some(reply) = replies.recv().await {
            all.push(match reply.result() {
                Ok(sample) => Ok((
                    sample.key_expr().to_string(),
                    sample.payload().to_bytes().into_owned(),
                    sample.attachment().map(|bytes| bytes.to_bytes().into_owned()).unwrap_or_default(),
                )),
                Err(error) => Err(String::from_utf8(error.payload().to_bytes().into_owned())?),
            });
        }
        Ok(all)
    }

    /// The one reply to a query.
    pub(crate) async fn one(&self, selector: &str, with: With) -> Result<Reply> {
        let mut replies = self.ask(selector, with).await?;
        match (replies.pop(), replies.len()) {
            (Some(reply), 0) => Ok(reply),
            (_, others) => {
                Err(format!("{selector}: not one reply, but one of {others} others or none").into())
            }
        }
    }

    /// The message that a query is answered.
    pub(crate) async fn get<T: Message + Default>(&self, selector: &str) -> Result<T> {
        let (_, payload, _) = self.one(selector, With::default()).await??;
        Ok(T::decode(payload.as_slice())?)
    }

    /// The text that a query is refused with.
    pub(crate) async fn refused(&self, selector: &str, with: With) -> Result<String> {
        match self.one(selector, with).await? {
            Err(text) => Ok(text),
            Ok((_, payload, _)) => Err(format!("{selector} was answered {payload:?}").into()),
        }
    }

    /// Sets an object, acknowledged; the attachment of the answer.
    pub(crate) async fn set(&self, root: &str, object: &str, fields: &[(&str, &str)]) -> Result<Vec<u8>> {
        let with = With { payload: Some(object_of(fields)), ..With::default() };
        let (_, payload, attachment) = self.one(&format!("{root}/objects/{object}/set"), with).await??;
        if payload.is_empty() { Ok(attachment) } else { Err("an EmptyResponse with bytes".into()) }
    }

    pub(crate) async fn put(&self, root: &str, object: &str, fields: &[(&str, &str)]) -> Result<()> {
        let put = self.0.put(format!("{root}/objects/{object}"), object_of(fields));
        put.congestion_control(CongestionControl::Block).await
    }

    pub(crate) async fn delete(&self, root: &str, object: &str) -> Result<()> {
        let delete = self.0.delete(format!("{root}/objects/{object}"));
        delete.congestion_control(CongestionControl::Block).await
    }

    /// Waits until a query is answered by somebody: Zenoh asks nobody as long as it has heard of nobody.
    pub(crate) async fn reaches(&self, selector: &str) -> Result<()> {
        until(&format!("an answer to {selector}"), async || {
            let replies = self.ask(selector, With::default()).await?;
            Ok((!replies.is_empty()).then_some(()))
        })
        .await
    }

    /// The liveliness tokens that there are now.
    pub(crate) async fn tokens(&self) -> Result<Vec<String>> {
        let (sender, mut tokens) = mpsc::unbounded_channel();
        let get = self.0.liveliness().get("oprc/**").timeout(Duration::from_secs(10));
        get.callback(move |reply| drop(sender.send(reply))).await?;
        let mut all = Vec::new();
        while let Some(reply) = tokens.recv().await {
            all.extend(reply.result().ok().map(|sample| sample.key_expr().to_string()));
        }
        all.sort();
        all.dedup();
        Ok(all)
    }
}

/// Looks again and again until there is something.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {PATIENCE:?} for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ports that are free now. The system gives none of them to connections, which would then have those of a stopped node.
pub(crate) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let mut random = Random::new(RandomState::new().hash_one(std::process::id()));
    // All are held until the last is found, so that none is found twice.
    let held = [(); COUNT].map(|()| {
        let mut tries = (0..1_000).map(|_| 10_000 + u16::try_from(random.below(20_000)).unwrap_or_default());
        tries.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
    });
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.as_ref().ok_or("no free port")?.local_addr()?.port();
    }
    Ok(ports)
}

/// An object with these entries.
pub(crate) fn object_of(fields: &[(&str, &str)]) -> Vec<u8> {
    let entries_str = fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    ObjData { entries_str, ..ObjData::default() }.encode_to_vec()
}

/// A request that puts an entry and deletes another, if need be only at a version.
pub(crate) fn batch_of(put: (&str, &str), delete: &str, expected: Option<u64>) -> With {
    let request = BatchSetValuesRequest {
        values: [(put.0.to_owned(), text(put.1))].into(),
        delete_keys: vec![delete.to_owned()],
        expected_object_version: expected,
        ..BatchSetValuesRequest::default()
    };
    With { payload: Some(request.encode_to_vec()), ..With::default() }
}

/// An attachment, in the form in which Zenoh's libraries serialize a map from text to text. All texts are short.
pub(crate) fn attachment(pairs: &[(&str, &str)]) -> Vec<u8> {
    let length = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
    let mut bytes = vec![length(pairs.len())];
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.push(length(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}
