//! This node's ways to the others: Zenoh sessions, and the transport for messages between nodes over them or over TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::NodeId;

use super::frame::ClusterId;
use super::mux::{Dropped, Identity, Mux};
use super::tcp::{Addresses, TcpCarrier, bind};
use super::zenoh::{Announced, ZenohAddresses, ZenohCarrier};
use super::{Admission, Call, CallError, Service, Transport};
use crate::cluster::{ClusterOptions, PeerTraffic, Wire};
use crate::data_dir::DataDir;
use crate::nodes::{Nodes, incarnation};
use crate::sessions::Sessions;

/// The transport of a node without a cluster.
pub(crate) struct Alone;

impl Transport for Alone {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let reason = "this node is not part of a cluster (ODGM_MEMBERS)".to_owned();
        std::future::ready(Err(CallError::Unreachable { node: call.to, reason })).boxed()
    }
}

/// The transport of a node in a cluster.
pub(crate) struct Links {
    mux: Arc<Mux>,
    /// As long as it is kept, those who ask are told where this node's TCP listener is.
    _announced: Option<Box<dyn Kept>>,
}

/// What is only kept; a trait, so that nobody has to look into it.
trait Kept: Send + Sync {}

impl Kept for Announced {}

impl Links {
    /// Opens the way to the others; `service` answers them.
    pub(crate) async fn open(
        cluster: &ClusterOptions,
        sessions: &Sessions,
        address: Option<&str>,
        data: &DataDir,
        nodes: &Arc<Nodes>,
        service: Arc<dyn Service>,
    ) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let node = data.node_id();
        let me = Identity {
            cluster: ClusterId::of(&cluster.name),
            node,
            incarnation: incarnation(&data.identity().incarnation),
        };
        let admission = Arc::clone(nodes) as Arc<dyn Admission>;
        let (mux, announced) = match cluster.wire {
            Wire::Zenoh => {
                let carrier =
                    ZenohCarrier::new(sessions.first(), &cluster.name).map_err(|error| failed(&error))?;
                let carrier = Arc::new(carrier);
                let mux = Mux::new(me, admission, Arc::clone(&carrier) as Arc<_>);
                mux.serve(service);
                carrier.listen(node, &mux.inbound()).await.map_err(|error| failed(&error))?;
                (mux, None)
            }
            Wire::Tcp => {
                let addresses =
                    ZenohAddresses::new(sessions.first(), &cluster.name).map_err(|error| failed(&error))?;
                let addresses = Arc::new(addresses);
                let (host, port) = split(&cluster.listen)?;
                let listener = bind(host, port).await.map_err(|error| {
                    format!("cannot listen on {}: {error}; choose another ODGM_TCP_LISTEN", cluster.listen)
                })?;
                let here = listener.local_addr().map_err(|error| failed(&error))?;
                let known = cluster.addresses.clone();
                let known = KnownAddresses { known, others: Arc::clone(&addresses) };
                let carrier = Arc::new(TcpCarrier::new(Arc::new(known)));
                let mux = Mux::new(me, admission, Arc::clone(&carrier) as Arc<_>);
                mux.serve(service);
                carrier.listen(listener, mux.inbound());
                let told = reachable(here, address);
                tracing::debug!(%here, told, "listening for the other nodes");
                let announced = addresses.announce(node, told).await.map_err(|error| failed(&error))?;
                (mux, Some(Box::new(announced) as Box<dyn Kept>))
            }
        };
        tracing::info!(endpoints = ?sessions.endpoints(), wire = ?cluster.wire, "open to the other nodes");
        Ok(Self { mux: Arc::new(mux), _announced: announced })
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.mux) as Arc<dyn Transport>
    }

    /// What has gone to and come from the other nodes.
    pub(crate) fn traffic(&self) -> PeerTraffic {
        let counters = self.mux.counters();
        let (sent, received) = (counters.sent(), counters.received());
        let dropped = Dropped::ALL.into_iter().map(|reason| counters.dropped(reason)).sum();
        PeerTraffic {
            sent: sent.messages,
            received: received.messages,
            frames: sent.frames,
            bytes: sent.bytes,
            dropped,
        }
    }

    pub(crate) fn close(&self) {
        self.mux.close();
    }
}

/// Where the operator says that nodes are; others are asked.
struct KnownAddresses {
    known: BTreeMap<NodeId, String>,
    others: Arc<ZenohAddresses>,
}

impl Addresses for KnownAddresses {
    fn address(&self, node: NodeId) -> BoxFuture<'_, Option<String>> {
        match self.known.get(&node) {
            Some(known) => std::future::ready(Some(known.clone())).boxed(),
            None => self.others.address(node),
        }
    }

    fn forget(&self, node: NodeId) {
        self.others.forget(node);
    }
}

fn split(listen: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("ODGM_TCP_LISTEN={listen:?}: expected host:port, as in 0.0.0.0:7448");
    let (host, port) = listen.rsplit_once(':').ok_or_else(wrong)?;
    Ok((host, port.parse().map_err(|_| wrong())?))
}

/// What others are told: a listener on all addresses is reached at the host where clients reach this node.
fn reachable(here: SocketAddr, address: Option<&str>) -> String {
    if !here.ip().is_unspecified() {
        return here.to_string();
    }
    let host = address.and_then(|address| address.rsplit_once(':')).map(|(host, _)| host);
    format!("{}:{}", host.unwrap_or("127.0.0.1"), here.port())
}
