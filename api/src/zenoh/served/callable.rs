//! The functions of a class that are called through its nodes, and what is declared for each.

use std::sync::Arc;

use odgm_proto::oprc::FuncInvokeRoute;
use odgm_replication::Definition;
use odgm_triggers::Remote as _;
use zenoh::query::Queryable;

use crate::zenoh::calls::Remote;
use crate::zenoh::places::Place;

/// A function with a URL, that is not disabled. Those without one answer themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Callable {
    name: String,
    stateless: bool,
    /// It is called only while none of these shards is alive.
    stands_by_for: Vec<u64>,
}

/// A function of a partition.
pub(super) struct Function {
    key: String,
    stands_by_for: Vec<u64>,
    /// None as long as others answer.
    queryable: Option<Queryable<()>>,
}

/// Whether functions that stand by are called at the moment.
pub(super) struct Standby(pub(super) Option<Arc<Remote>>);

impl Callable {
    /// Those of a class.
    pub(super) fn of(definition: &Definition) -> Vec<Self> {
        let Some(routes) = &definition.wire.invocations else { return Vec::new() };
        let named = routes.fn_routes.iter();
        let called = named.filter(|(name, route)| has_url(route) && !routes.disabled_fn.contains(name));
        let callable = called.map(|(name, route)| Self {
            name: name.clone(),
            stateless: route.stateless,
            stands_by_for: if route.standby { route.active_group.clone() } else { Vec::new() },
        });
        callable.collect()
    }
}

impl Function {
    /// Makes the functions of a partition those that its class has now. What is declared for them stays so.
    pub(super) fn follow_class(functions: &mut Vec<Self>, callable: &[Callable], place: &Place) {
        let mut known = std::mem::take(functions);
        functions.extend(callable.iter().filter_map(|callable| {
            // A name that cannot be part of a key is one that no client can ask for.
            let key = place.function(&callable.name, callable.stateless)?;
            let same = known.iter().position(|function| function.key == key);
            let queryable = same.and_then(|at| known.swap_remove(at).queryable);
            Some(Self { key, stands_by_for: callable.stands_by_for.clone(), queryable })
        }));
    }

    /// Whether it is declared if it is to be, and only then. `is_ours` says whether this node answers for the partition.
    pub(super) fn is_right(&self, is_ours: bool, standby: &Standby) -> bool {
        self.is_wanted(is_ours, standby) == self.queryable.is_some()
    }

    /// Declares it if it is to be, and else takes it back.
    pub(super) fn follow(
        &mut self,
        is_ours: bool,
        standby: &Standby,
        declare: impl FnOnce(String) -> zenoh::Result<Queryable<()>>,
    ) -> zenoh::Result<()> {
        if !self.is_wanted(is_ours, standby) {
            self.queryable = None;
        } else if self.queryable.is_none() {
            self.queryable = Some(declare(self.key.clone())?);
        }
        Ok(())
    }

    fn is_wanted(&self, is_ours: bool, standby: &Standby) -> bool {
        is_ours && !standby.is_any_alive(&self.stands_by_for)
    }
}

impl Standby {
    fn is_any_alive(&self, shards: &[u64]) -> bool {
        let Some(remote) = &self.0 else { return false };
        shards.iter().any(|shard| remote.is_alive(*shard))
    }
}

/// Whether a function is called at an endpoint, of which there may be several.
fn has_url(route: &FuncInvokeRoute) -> bool {
    route.url.split(',').any(|url| !url.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use odgm_proto::oprc::{CreateCollectionRequest, InvocationRoute};

    use super::*;

    #[test]
    fn only_functions_with_a_url_that_are_not_disabled_are_called_through_nodes() {
        let route =
            |url: &str, stateless| FuncInvokeRoute { url: url.into(), stateless, ..Default::default() };
        let routes = [
            ("count", route("http://10.0.0.7:9000", false)),
            ("echo", route(" , ", true)),
            ("report", route("http://10.0.0.8:9000", true)),
            (
                "spare",
                FuncInvokeRoute {
                    standby: true,
                    active_group: vec![7],
                    ..route("http://10.0.0.9:9000", false)
                },
            ),
            ("stopped", route("http://10.0.0.7:9000", false)),
        ];
        let wire = CreateCollectionRequest {
            name: "demo".into(),
            invocations: Some(InvocationRoute {
                fn_routes: routes.map(|(name, route)| (name.to_owned(), route)).into(),
                disabled_fn: vec!["stopped".into()],
            }),
            ..Default::default()
        };
        let definition = Definition::from_wire(wire).expect("valid");
        let callable = |name: &str, stateless, stands_by_for: &[u64]| Callable {
            name: name.into(),
            stateless,
            stands_by_for: stands_by_for.to_vec(),
        };
        assert_eq!(
            Callable::of(&definition),
            [callable("count", false, &[]), callable("report", true, &[]), callable("spare", false, &[7])]
        );
    }
}
