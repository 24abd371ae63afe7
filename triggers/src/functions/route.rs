//! Where a function is called: what a collection says of it, read.

use std::fmt;

use odgm_proto::oprc::FuncInvokeRoute;
use odgm_replication::Definition;
use tonic::codegen::http::Uri;

use super::settings::PoolSettings;
use crate::invoker::Failure;

/// How a function is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its endpoints; none if it is served over Zenoh.
    pub endpoints: Vec<Address>,
    /// Whether it belongs to the class and not to its objects, which decides the form of its Zenoh keys.
    pub stateless: bool,
    /// Whether it is called only while no other shard of the group is alive.
    pub standby: bool,
    /// That group; empty, it is up to the leader of the partition, which it is if it is asked to call.
    pub active_group: Vec<u64>,
    pub(crate) pool: PoolSettings,
}

/// Where an endpoint is. As text `http://host:port`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a function has no route.
pub(crate) enum Unroutable {
    NoFunction(String),
    Disabled,
    Misconfigured(String),
}

impl Unroutable {
    pub(crate) fn of(self, class: &str, function: &str) -> Failure {
        let (class, function) = (class.to_owned(), function.to_owned());
        match self {
            Self::NoFunction(reason) => Failure::NoFunction { class, function, reason },
            Self::Disabled => Failure::Disabled { class, function },
            Self::Misconfigured(reason) => Failure::Misconfigured { class, function, reason },
        }
    }
}

impl Route {
    /// The route of a function.
    pub(crate) fn of(definition: &Definition, function: &str, most: usize) -> Result<Self, Unroutable> {
        let invocations = definition.wire.invocations.as_ref();
        let found = invocations.and_then(|all| Some((all, all.fn_routes.get(function)?)));
        let Some((invocations, route)) = found else {
            let reason = "expected one that invocations.fn_routes of its collection names";
            return Err(Unroutable::NoFunction(reason.to_owned()));
        };
        if invocations.disabled_fn.iter().any(|disabled| disabled == function) {
            return Err(Unroutable::Disabled);
        }
        let endpoints = endpoints(route, most).map_err(Unroutable::Misconfigured)?;
        Ok(Self {
            endpoints,
            stateless: route.stateless,
            standby: route.standby,
            active_group: route.active_group.clone(),
            pool: PoolSettings::of(definition),
        })
    }

    /// Of the group whose place it would take, those that are alive. It may be called if there are none.
    pub(crate) fn in_charge(&self, is_alive: impl Fn(u64) -> bool) -> Vec<u64> {
        let group = if self.standby { self.active_group.as_slice() } else { &[] };
        group.iter().copied().filter(|shard| is_alive(*shard)).collect()
    }
}

fn endpoints(route: &FuncInvokeRoute, most: usize) -> Result<Vec<Address>, String> {
    let has_module = route.wasm_module_url.as_ref().is_some_and(|url| !url.is_empty());
    if has_module || route.url.trim_start().starts_with("wasm:") {
        return Err("its route names a WebAssembly module, which this build does not run; expected the \
                    http://host:port of a gRPC service as url, and no wasm_module_url"
            .to_owned());
    }
    let mut endpoints = Vec::new();
    for url in route.url.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let address = Address::parse(url)?;
        if !endpoints.contains(&address) {
            endpoints.push(address);
        }
    }
    if endpoints.len() > most {
        return Err(format!("its route names {} endpoints; expected at most {most}", endpoints.len()));
    }
    Ok(endpoints)
}

impl Address {
    /// Reads `http://host:port` or `host:port`; port 80 may be left out.
    fn parse(url: &str) -> Result<Self, String> {
        let expected = || format!("{url:?} is no endpoint; expected http://host:port");
        let rest = match url.split_once("://") {
            None => url,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(format!(
                    "{url:?} asks for TLS, which this build does not speak to functions; expected http://{rest}, \
                     with whatever ends TLS in front of the function"
                ));
            }
            Some(_) => return Err(expected()),
        };
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| expected())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.filter(|authority| !authority.host().is_empty()).ok_or_else(expected)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{url:?} has a path; expected http://host:port alone"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            _ => authority.port_u16().filter(|port| *port != 0).ok_or_else(expected)?,
        };
        Ok(Self { host: authority.host().to_ascii_lowercase(), port })
    }

    /// The host as a name is looked up, or an address.
    pub(crate) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What requests to it say they are for.
    pub(crate) fn origin(&self) -> Uri {
        // It was read out of one.
        self.to_string().parse().unwrap_or_default()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use odgm_proto::oprc::{CreateCollectionRequest, InvocationRoute};

    use super::*;

    fn route(url: &str) -> FuncInvokeRoute {
        FuncInvokeRoute { url: url.into(), ..FuncInvokeRoute::default() }
    }

    fn read(function: &str, route: FuncInvokeRoute) -> Result<Route, Failure> {
        let invocations = InvocationRoute {
            fn_routes: [("f".to_owned(), route.clone()), ("off".to_owned(), route)].into(),
            disabled_fn: vec!["off".into()],
        };
        let wire = CreateCollectionRequest {
            name: "c".into(),
            options: [("offload_max_pool_size".to_owned(), "7".to_owned())].into(),
            invocations: Some(invocations),
            ..CreateCollectionRequest::default()
        };
        let definition = Definition::from_wire(wire).expect("valid");
        Route::of(&definition, function, 3).map_err(|reason| reason.of("c", function))
    }

    #[test]
    fn endpoints_are_separated_by_commas_and_need_no_scheme() {
        let read = read("f", route(" host , HTTP://Host:80/,[::1]:9000, http://10.0.0.1:1 ")).expect("valid");
        insta::assert_debug_snapshot!(read.endpoints, @r"
        [
            http://host:80,
            http://[::1]:9000,
            http://10.0.0.1:1,
        ]
        ");
        assert_eq!(read.endpoints[1].host(), "::1");
        assert_eq!(
            read.endpoints[1].origin().authority().map(ToString::to_string),
            Some("[::1]:9000".into())
        );
        assert_eq!(read.pool.size, 7);
    }

    #[test]
    fn a_route_without_url_is_one() {
        let stateless = FuncInvokeRoute { stateless: true, ..route(" ,") };
        let read = read("f", stateless).expect("valid");
        assert_eq!((read.endpoints.as_slice(), read.stateless), ([].as_slice(), true));
    }

    #[test]
    fn a_standby_waits_for_those_that_are_alive() {
        let standby = FuncInvokeRoute { standby: true, active_group: vec![1, 2, 3], ..route("h") };
        assert_eq!(read("f", standby.clone()).expect("valid").in_charge(|shard| shard != 2), [1, 3]);
        let active = FuncInvokeRoute { standby: false, ..standby };
        assert!(read("f", active).expect("valid").in_charge(|_| true).is_empty());
    }

    #[test]
    fn what_cannot_be_called_says_why() {
        let wasm = FuncInvokeRoute { wasm_module_url: Some("http://h/m.wasm".into()), ..route("h") };
        let failures: Vec<String> = [
            read("g", route("h")),
            read("off", route("h")),
            read("f", wasm),
            read("f", route("wasm://m")),
            read("f", route("https://h:1")),
            read("f", route("ftp://h")),
            read("f", route("h:port")),
            read("f", route("h:")),
            read("f", route("h:0")),
            read("f", route("u:p@h")),
            read("f", route("http://h/path")),
            read("f", route("a,b,c,d")),
        ]
        .into_iter()
        .map(|read| read.expect_err("refused").to_string())
        .collect();
        insta::assert_snapshot!(failures.join("\n"), @r#"
        class "c" has no function "g" to call: expected one that invocations.fn_routes of its collection names
        class "c" has no function "off" to call: it is disabled; take it out of invocations.disabled_fn to have it called
        function "f" of class "c" cannot be called: its route names a WebAssembly module, which this build does not run; expected the http://host:port of a gRPC service as url, and no wasm_module_url
        function "f" of class "c" cannot be called: its route names a WebAssembly module, which this build does not run; expected the http://host:port of a gRPC service as url, and no wasm_module_url
        function "f" of class "c" cannot be called: "https://h:1" asks for TLS, which this build does not speak to functions; expected http://h:1, with whatever ends TLS in front of the function
        function "f" of class "c" cannot be called: "ftp://h" is no endpoint; expected http://host:port
        function "f" of class "c" cannot be called: "h:port" is no endpoint; expected http://host:port
        function "f" of class "c" cannot be called: "h:" is no endpoint; expected http://host:port
        function "f" of class "c" cannot be called: "h:0" is no endpoint; expected http://host:port
        function "f" of class "c" cannot be called: "u:p@h" is no endpoint; expected http://host:port
        function "f" of class "c" cannot be called: "http://h/path" has a path; expected http://host:port alone
        function "f" of class "c" cannot be called: its route names 4 endpoints; expected at most 3
        "#);
    }
}
