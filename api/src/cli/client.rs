//! The connection to a node, and where the things that the user named are.

use std::{error::Error as _, time::Duration};

use odgm_proto::{
    odgm::v1::{
        self, admin_client::AdminClient, calls_client::CallsClient, streams_client::StreamsClient,
        writes_client::WritesClient,
    },
    oprc::{data_service_client::DataServiceClient, oprc_function_client::OprcFunctionClient},
};
use tonic::transport::{Channel, Endpoint};

use super::{
    address::{ClassAddress, ObjectAddress},
    error::Error,
    output::Output,
    placement,
};

/// The endpoint when neither the option nor the variable is given.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No answer is larger than this, in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Flow-control windows, in bytes: a bulk transfer must not wait for a window.
const WINDOW: u32 = 4 << 20;

/// What every command gets: where the server is and where its own output goes.
pub(crate) struct Context {
    /// The server, as given.
    pub(crate) endpoint: String,
    /// Standard output.
    pub(crate) output: Output,
}

impl Context {
    /// Connects to the server.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        Client::connect(&self.endpoint).await
    }
}

/// A connection to a node. Its clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The collection.
    pub(crate) class: String,
    /// The partition.
    pub(crate) partition: u16,
    /// The object's id, in lower case.
    pub(crate) id: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.class, self.partition, self.id)
    }
}

impl Client {
    /// Connects; the error says what to do when there is nobody.
    pub(crate) async fn connect(endpoint: &str) -> Result<Self, Error> {
        let channel =
            parse_endpoint(endpoint)?.connect().await.map_err(|error| unreachable(endpoint, &error))?;
        Ok(Self { channel })
    }

    /// `oprc.DataService`.
    pub(crate) fn data(&self) -> DataServiceClient<Channel> {
        DataServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// `odgm.v1.Streams`.
    pub(crate) fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// `odgm.v1.Writes`.
    pub(crate) fn writes(&self) -> WritesClient<Channel> {
        WritesClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// `odgm.v1.Admin`.
    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// `oprc.OprcFunction`.
    pub(crate) fn functions(&self) -> OprcFunctionClient<Channel> {
        OprcFunctionClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// `odgm.v1.Calls`.
    pub(crate) fn calls(&self) -> CallsClient<Channel> {
        CallsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The number of partitions of a collection.
    pub(crate) async fn partition_count(&self, class: &str) -> Result<u16, Error> {
        let request = v1::DescribeCollectionRequest { name: class.to_owned() };
        let definition = self
            .admin()
            .describe_collection(request)
            .await?
            .into_inner()
            .collection
            .and_then(|collection| collection.definition)
            .unwrap_or_default();
        u16::try_from(definition.partition_count).ok().filter(|count| *count > 0).ok_or_else(|| {
            Error::Failed(format!(
                "the server says that {class} has {} partitions; expected 1 to 65535",
                definition.partition_count
            ))
        })
    }

    /// The partitions that an address names.
    pub(crate) async fn partitions(&self, address: &ClassAddress) -> Result<Vec<u16>, Error> {
        match address.partition {
            Some(partition) => Ok(vec![partition]),
            None => Ok((0..self.partition_count(&address.class).await?).collect()),
        }
    }

    /// Where an object is; asks the server for the number of partitions if the address leaves the partition out.
    pub(crate) async fn locate(&self, address: ObjectAddress) -> Result<Place, Error> {
        let ObjectAddress { class, partition, id } = address;
        let id = id.to_ascii_lowercase();
        let partition = match partition {
            Some(partition) => partition,
            None => placement::partition_of(&id, self.partition_count(&class).await?),
        };
        Ok(Place { class, partition, id })
    }
}

fn parse_endpoint(endpoint: &str) -> Result<Endpoint, Error> {
    let wrong = |reason: &str| {
        Error::Usage(format!(
            "the endpoint {endpoint:?} is wrong: {reason}; expected a URL such as {DEFAULT_ENDPOINT}, \
             from --endpoint or ODGM_ENDPOINT"
        ))
    };
    let url = match endpoint.split_once("://") {
        Some(("http", _)) => endpoint.to_owned(),
        Some((scheme, _)) => return Err(wrong(&format!("{scheme} is not supported"))),
        None => format!("http://{endpoint}"),
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| wrong(&error.to_string()))?;
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW))
}

fn unreachable(endpoint: &str, error: &tonic::transport::Error) -> Error {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    Error::Unavailable(format!(
        "no ODGM node answers at {endpoint} ({reason}). Start one with `odgm serve`, or name another with \
         --endpoint URL or the variable ODGM_ENDPOINT"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_a_host_and_port() {
        for endpoint in ["http://127.0.0.1:8080", "localhost:8080", "[::1]:9"] {
            assert!(parse_endpoint(endpoint).is_ok(), "{endpoint}");
        }
        let error = |endpoint| parse_endpoint(endpoint).expect_err("refused").to_string();
        insta::assert_snapshot!(error("https://example.org"), @r#"the endpoint "https://example.org" is wrong: https is not supported; expected a URL such as http://127.0.0.1:8080, from --endpoint or ODGM_ENDPOINT"#);
        insta::assert_snapshot!(error("http://"), @r#"the endpoint "http://" is wrong: invalid URI; expected a URL such as http://127.0.0.1:8080, from --endpoint or ODGM_ENDPOINT"#);
        insta::assert_snapshot!(error("two words"), @r#"the endpoint "two words" is wrong: invalid URI; expected a URL such as http://127.0.0.1:8080, from --endpoint or ODGM_ENDPOINT"#);
    }

    #[tokio::test]
    async fn without_a_server_the_error_says_what_to_do() {
        // A port that was just free: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("port")
            .port();
        let error = Client::connect(&format!("http://127.0.0.1:{port}")).await.expect_err("nobody listens");
        let message = error.to_string().replace(&port.to_string(), "PORT");
        insta::assert_snapshot!(message, @"no ODGM node answers at http://127.0.0.1:PORT (Connection refused (os error 111)). Start one with `odgm serve`, or name another with --endpoint URL or the variable ODGM_ENDPOINT");
        assert_eq!(error.exit_code(), 5);
    }
}
