//! A service of functions in this process, and what it was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::oprc_function_server::{OprcFunction, OprcFunctionServer};
use odgm_proto::oprc::{
    self, FuncInvokeRoute, InvocationRequest, InvocationResponse, InvocationRoute, ObjectInvocationRequest,
    ResponseStatus,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Functions, by name: `echo` answers what it was given, `times` how often it was called, `fail` an error, `refuse` a gRPC
/// status; `slow` answers when it is let; `mark` writes into the object that it is called on.
pub(crate) struct TestFunctions {
    url: String,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    news: Notify,
    gate: OnceLock<Semaphore>,
    node: OnceLock<Channel>,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) function: String,
    pub(crate) object: Option<String>,
    pub(crate) payload: Bytes,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) metadata: MetadataMap,
}

impl TestFunctions {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared::default());
        let service = OprcFunctionServer::new(Service(Arc::clone(&shared)));
        let serving = tokio::spawn(async move {
            let served = Server::builder().add_service(service);
            served.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
        });
        Self { url, shared, serving }
    }

    /// Routes to functions of this service, by name.
    pub(crate) fn routes(&self, names: &[&str]) -> InvocationRoute {
        routes(&self.url, names)
    }

    /// Where functions write that do.
    pub(crate) fn write_to(&self, node: Channel) {
        self.shared.node.set(node).expect("told once");
    }

    /// Lets so many slow calls answer.
    pub(crate) fn let_go(&self, calls: usize) {
        self.shared.gate().add_permits(calls);
    }

    /// What was asked so far, when there is so much of it.
    pub(crate) async fn asked(&self, count: usize) -> Vec<Asked> {
        loop {
            let news = self.shared.news.notified();
            let asked = self.shared.asked.lock().expect("whole").clone();
            if asked.len() >= count {
                return asked;
            }
            news.await;
        }
    }
}

impl Drop for TestFunctions {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Routes to functions of a service.
pub(crate) fn routes(url: &str, names: &[&str]) -> InvocationRoute {
    let route = || FuncInvokeRoute { url: url.to_owned(), ..Default::default() };
    let fn_routes = names.iter().map(|name| ((*name).to_owned(), route())).collect();
    InvocationRoute { fn_routes, disabled_fn: Vec::new() }
}

/// A URL at which nobody answers.
pub(crate) async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

impl Shared {
    fn gate(&self) -> &Semaphore {
        self.gate.get_or_init(|| Semaphore::new(0))
    }

    async fn call(&self, asked: Asked) -> Result<Response<InvocationResponse>, Status> {
        let times = {
            let mut all = self.asked.lock().expect("whole");
            all.push(asked.clone());
            all.iter().filter(|other| other.function == asked.function).count()
        };
        self.news.notify_waiters();
        let answer = |status: ResponseStatus, payload: Bytes| {
            Ok(Response::new(InvocationResponse {
                payload: Some(payload),
                status: status.into(),
                headers: [("content-type".to_owned(), "text/plain".to_owned())].into(),
                invocation_id: String::new(),
            }))
        };
        match asked.function.as_str() {
            "echo" => answer(ResponseStatus::Okay, asked.payload),
            "times" => answer(ResponseStatus::Okay, times.to_string().into()),
            "fail" => answer(ResponseStatus::AppError, "no such flight".into()),
            "refuse" => Err(Status::permission_denied("not you")),
            "slow" => {
                self.gate().acquire().await.expect("open").forget();
                answer(ResponseStatus::Okay, times.to_string().into())
            }
            "mark" => {
                self.mark(&asked).await?;
                answer(ResponseStatus::Okay, Bytes::new())
            }
            other => Err(Status::unimplemented(format!("no function {other:?}"))),
        }
    }

    /// Writes into the object, with the depth and the cause that came with the call.
    async fn mark(&self, asked: &Asked) -> Result<(), Status> {
        let node = self.node.get().expect("told").clone();
        let mut request = Request::new(oprc::SetKeyRequest {
            cls_id: "marks".into(),
            object_id_str: asked.object.clone(),
            key_str: Some("mark".into()),
            value: Some(oprc::ValData { data: "x".into(), r#type: 0 }),
            ..Default::default()
        });
        for name in ["odgm-depth", "odgm-cause"] {
            if let Some(value) = asked.metadata.get(name) {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        DataServiceClient::new(node).set_value(request).await.map(drop)
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl OprcFunction for Service {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let InvocationRequest { fn_id: function, options, payload, .. } = request;
        self.0.call(Asked { function, object: None, payload, options, metadata }).await
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let ObjectInvocationRequest { fn_id: function, object_id_str: object, options, payload, .. } =
            request;
        self.0.call(Asked { function, object, payload, options, metadata }).await
    }
}
