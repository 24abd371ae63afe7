//! The functions of a collection: where they run, on the command line and in answers.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::Args;
use odgm_proto::{
    odgm::v1,
    oprc::{FuncInvokeRoute, InvocationRoute},
};
use serde::Serialize;

use super::{
    ask,
    client::{Client, Context},
    error::Error,
    output::{Cell, Human, Style, Table, Tint},
};

/// Functions as they are given when a collection is created or changed.
#[derive(Debug, Default, Args)]
pub(crate) struct FunctionArgs {
    /// All routes, as JSON; the options below change them
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// A function that is called on objects, and where it runs; without a URL, over Zenoh. May be repeated
    #[arg(long = "function", value_name = "NAME[=URL]", value_parser = parse_function)]
    functions: Vec<(String, String)>,
    /// A function that is called by itself
    #[arg(long = "function-stateless", value_name = "NAME[=URL]", value_parser = parse_function)]
    stateless: Vec<(String, String)>,
}

/// `odgm collection route`.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The collection
    name: String,
    #[command(flatten)]
    given: FunctionArgs,
    /// Take a function away: calls of it that wait become dead letters; may be repeated
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Call a function no more: calls of it wait until it is enabled; may be repeated
    #[arg(long, value_name = "NAME")]
    disable: Vec<String>,
    /// Call a function again; may be repeated
    #[arg(long, value_name = "NAME")]
    enable: Vec<String>,
    /// Do not ask, where functions are taken away or disabled
    #[arg(long, short)]
    yes: bool,
}

/// The most calls that a partition shows.
const SHOWN_OF_PARTITION: u32 = 1_024;

/// The form of routes in a file, for help texts.
pub(crate) const FILE_HELP: &str = "\
Routes in a file, as in the field `invocations` of a definition:
  {\"fn_routes\": {\"count\": {\"url\": \"http://10.0.0.7:9000\", \"stateless\": false, \"standby\": false, \"active_group\": []}},
   \"disabled_fn\": []}";

/// Help below the options of `odgm collection route`.
pub(crate) fn help() -> String {
    format!(
        "Without options the routes are shown. Calls that are under way go on as they began. What there is is read and \
         then written back: of two who change it at the same moment, one prevails. It asks before a function is called no more.\n\n{FILE_HELP}\n\n\
         Examples:\n  \
         odgm collection route flights --function count=http://10.0.0.7:9000\n  \
         odgm collection route flights --function-stateless report=http://10.0.0.8:9000\n  \
         odgm collection route flights --disable count\n  \
         odgm collection route flights --routes routes.json"
    )
}

fn parse_function(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("expected NAME=URL, for example count=http://127.0.0.1:9000, or NAME".to_owned()),
        (name, url) => Ok((name.to_owned(), url.to_owned())),
    }
}

impl FunctionArgs {
    fn is_empty(&self) -> bool {
        self.routes.is_none() && self.functions.is_empty() && self.stateless.is_empty()
    }

    /// Puts these functions among the routes of a definition.
    pub(crate) fn put_into(self, invocations: &mut Option<InvocationRoute>) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let mut routes = invocations.take().unwrap_or_default();
        if let Some(path) = &self.routes {
            let text = fs::read(path).map_err(|error| Error::file("read", path, &error))?;
            routes = serde_json::from_slice(&text)
                .map_err(|error| Error::Usage(format!("{} has no routes: {error}", path.display())))?;
        }
        let of_objects = self.functions.into_iter().map(|function| (function, false));
        let by_itself = self.stateless.into_iter().map(|function| (function, true));
        for ((name, url), stateless) in of_objects.chain(by_itself) {
            let route = routes.fn_routes.entry(name).or_default();
            (route.url, route.stateless) = (url, stateless);
        }
        *invocations = Some(routes);
        Ok(())
    }
}

impl RouteArgs {
    fn is_empty(&self) -> bool {
        self.given.is_empty()
            && [&self.remove, &self.disable, &self.enable].iter().all(|names| names.is_empty())
    }

    /// The routes after the change.
    fn changed(self, known: Option<InvocationRoute>) -> Result<InvocationRoute, Error> {
        let Self { name: class, given, remove, disable, enable, yes: _ } = self;
        let mut invocations = known;
        given.put_into(&mut invocations)?;
        let mut routes = invocations.unwrap_or_default();
        for name in remove.iter().chain(&disable).chain(&enable) {
            if !routes.fn_routes.contains_key(name) {
                let text = format!(
                    "{class} has no function {name:?}; `odgm collection route {class}` shows those it has"
                );
                return Err(Error::NotFound(text));
            }
        }
        for name in &remove {
            routes.fn_routes.remove(name);
        }
        routes.disabled_fn.retain(|name| !remove.contains(name) && !enable.contains(name));
        for name in disable {
            if !routes.disabled_fn.contains(&name) {
                routes.disabled_fn.push(name);
            }
        }
        Ok(routes)
    }
}

/// `odgm collection route`.
pub(crate) async fn run(args: RouteArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let name = args.name.clone();
    let mut known = known(&client, name.clone()).await?;
    if !args.is_empty() {
        let yes = args.yes;
        let changed = args.changed(known.clone())?;
        let lost = Lost::between(&known.unwrap_or_default(), &changed);
        if !yes && !lost.is_empty() {
            lost.confirm(&client, &name).await?;
        }
        let invocations = Some(changed);
        let request = v1::UpdateCollectionRequest { name: name.clone(), invocations, ..Default::default() };
        let updated = client.admin().update_collection(request).await?.into_inner();
        known = invocations_of(updated.collection);
    }
    context.output.document(&Routes { name, functions: RouteView::all(known) })
}

/// Functions that are called no more after a change.
#[derive(Debug, PartialEq, Eq)]
struct Lost {
    removed: Vec<String>,
    disabled: Vec<String>,
}

/// How many calls of a function wait.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    calls: u64,
    /// Whether there may be more: a partition does not show all that it has.
    or_more: bool,
}

impl Lost {
    fn between(before: &InvocationRoute, after: &InvocationRoute) -> Self {
        let is_called = |routes: &InvocationRoute, name: &String| !routes.disabled_fn.contains(name);
        let all = before.fn_routes.keys();
        let (kept, removed): (Vec<_>, Vec<_>) =
            all.cloned().partition(|name| after.fn_routes.contains_key(name));
        let is_disabled = |name: &String| is_called(before, name) && !is_called(after, name);
        Self { removed, disabled: kept.into_iter().filter(is_disabled).collect() }
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.disabled.is_empty()
    }

    /// Asks, with what becomes of the calls that wait.
    async fn confirm(&self, client: &Client, class: &str) -> Result<(), Error> {
        if !ask::can_ask() {
            return Err(Error::Usage(
                "calls of a function that is taken away become dead letters, and those of one that is disabled wait: without a \
                 terminal to ask on, say --yes"
                    .to_owned(),
            ));
        }
        let waiting = waiting(client, class).await?;
        if ask::confirm(&self.question(class, &waiting))? {
            return Ok(());
        }
        Err(Error::Failed("nothing was changed".to_owned()))
    }

    fn question(&self, class: &str, waiting: &BTreeMap<String, Waiting>) -> String {
        let part = |what: &str, name: &String, then: &str| {
            let Waiting { calls, or_more } = waiting.get(name).copied().unwrap_or_default();
            let at_least = if or_more { "at least " } else { "" };
            let wait = if calls == 1 { "call waits" } else { "calls wait" };
            format!("{what} {name} ({at_least}{calls} {wait} for it{then})")
        };
        let removed = self.removed.iter().map(|name| part("take away", name, ", to become dead letters"));
        let disabled = self.disabled.iter().map(|name| part("disable", name, ", until it is enabled"));
        let parts: Vec<_> = removed.chain(disabled).collect();
        format!("Of the functions of {class}, {}?", parts.join(" and "))
    }
}

/// How many calls wait for each function of a class, in any partition of any collection.
async fn waiting(client: &Client, class: &str) -> Result<BTreeMap<String, Waiting>, Error> {
    let mut found: BTreeMap<String, Waiting> = BTreeMap::new();
    let mut or_more = false;
    let listed = client.admin().list_collections(v1::ListCollectionsRequest {}).await?.into_inner();
    for collection in listed.collections {
        let Some(definition) = collection.definition else { continue };
        let request =
            v1::ListCallsRequest { cls_id: definition.name, partition_id: None, limit: SHOWN_OF_PARTITION };
        let answer = client.calls().list_calls(request).await?.into_inner();
        or_more |= answer.totals.iter().any(|totals| totals.outbox_rows > SHOWN_OF_PARTITION.into());
        let targets = answer.calls.into_iter().filter_map(|call| call.target);
        for target in targets.filter(|target| target.cls_id == class) {
            found.entry(target.fn_id).or_default().calls += 1;
        }
    }
    found.values_mut().for_each(|waiting| waiting.or_more = or_more);
    Ok(found)
}

async fn known(client: &Client, name: String) -> Result<Option<InvocationRoute>, Error> {
    let request = v1::DescribeCollectionRequest { name };
    let described = client.admin().describe_collection(request).await?.into_inner();
    Ok(invocations_of(described.collection))
}

fn invocations_of(collection: Option<v1::Collection>) -> Option<InvocationRoute> {
    collection?.definition?.invocations
}

/// Where a function runs, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct RouteView {
    name: String,
    /// Empty: it is reached over Zenoh.
    url: String,
    stateless: bool,
    standby: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    active_group: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wasm_module_url: Option<String>,
    disabled: bool,
}

impl RouteView {
    /// Those of a definition.
    pub(crate) fn all(invocations: Option<InvocationRoute>) -> Vec<Self> {
        let InvocationRoute { fn_routes, disabled_fn } = invocations.unwrap_or_default();
        let view = |(name, route): (String, FuncInvokeRoute)| Self {
            disabled: disabled_fn.contains(&name),
            name,
            url: route.url,
            stateless: route.stateless,
            standby: route.standby,
            active_group: route.active_group,
            wasm_module_url: route.wasm_module_url,
        };
        fn_routes.into_iter().map(view).collect()
    }

    /// A table of functions.
    pub(crate) fn table(rows: &[Self], style: Style) -> String {
        let mut table = Table::new(&["FUNCTION", "CALLED", "AT", "STATE"]);
        for row in rows {
            table.row(vec![
                row.name.as_str().into(),
                if row.stateless { "by itself" } else { "on objects" }.into(),
                if row.url.is_empty() { "Zenoh" } else { &row.url }.into(),
                row.state(),
            ]);
        }
        table.render(style)
    }

    fn state(&self) -> Cell {
        if self.disabled {
            return Cell::from("disabled").tinted(Tint::Bad);
        }
        if !self.standby {
            return Cell::from("active").tinted(Tint::Good);
        }
        let shards: Vec<_> = self.active_group.iter().map(ToString::to_string).collect();
        let text = if shards.is_empty() {
            "standby".to_owned()
        } else {
            format!("standby for shards {}", shards.join(" "))
        };
        Cell::from(text).tinted(Tint::Notice)
    }
}

#[derive(Debug, Serialize)]
struct Routes {
    name: String,
    functions: Vec<RouteView>,
}

impl Human for Routes {
    fn human(&self, style: Style) -> String {
        if self.functions.is_empty() {
            return format!("{}  no functions\n", self.name);
        }
        RouteView::table(&self.functions, style)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RouteArgs,
    }

    fn change(known: Option<InvocationRoute>, line: &str) -> Result<InvocationRoute, String> {
        let line = Line::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        line.args.changed(known).map_err(|error| error.to_string())
    }

    /// Functions of each kind.
    pub(crate) fn routes() -> InvocationRoute {
        let mut routes = change(
            None,
            "route demo --function count=http://10.0.0.7:9000 --function-stateless report=http://10.0.0.8:9000 \
             --function echo --disable echo",
        )
        .expect("routes");
        let spare = FuncInvokeRoute {
            url: "http://10.0.0.9:9000".into(),
            standby: true,
            active_group: vec![3, 4],
            ..Default::default()
        };
        routes.fn_routes.insert("spare".into(), spare);
        routes
    }

    #[test]
    fn functions_are_a_table_that_says_where_they_run() {
        let functions = RouteView::all(Some(routes()));
        let shown = Routes { name: "demo".into(), functions };
        insta::assert_snapshot!(shown.human(Style::PLAIN), @"
        FUNCTION  CALLED      AT                    STATE
        count     on objects  http://10.0.0.7:9000  active
        echo      on objects  Zenoh                 disabled
        report    by itself   http://10.0.0.8:9000  active
        spare     on objects  http://10.0.0.9:9000  standby for shards 3 4
        ");
        let none = Routes { name: "demo".into(), functions: Vec::new() };
        assert_eq!(none.human(Style::PLAIN), "demo  no functions\n");
    }

    #[test]
    fn a_change_leaves_the_other_routes_and_the_rest_of_a_route() {
        let known = routes();
        let moved = change(Some(known.clone()), "route demo --function spare=http://10.0.0.10:9000")
            .expect("changed");
        let spare =
            FuncInvokeRoute { url: "http://10.0.0.10:9000".into(), ..known.fn_routes["spare"].clone() };
        assert_eq!(moved.fn_routes["spare"], spare);
        assert_eq!(moved.fn_routes["count"], known.fn_routes["count"]);

        let removed =
            change(Some(known.clone()), "route demo --remove echo --disable count").expect("changed");
        assert_eq!(removed.fn_routes.keys().collect::<Vec<_>>(), ["count", "report", "spare"]);
        assert_eq!(removed.disabled_fn, ["count"]);
        assert!(change(Some(removed), "route demo --enable count").expect("changed").disabled_fn.is_empty());

        let unknown = change(Some(known), "route demo --disable cuont").expect_err("no such function");
        insta::assert_snapshot!(unknown, @r#"demo has no function "cuont"; `odgm collection route demo` shows those it has"#);
    }

    #[test]
    fn whoever_takes_functions_away_or_disables_them_is_told_what_waits() {
        let before = routes();
        let lost = |line| {
            let after = change(Some(before.clone()), line).expect("changed");
            Lost::between(&before, &after)
        };
        assert!(lost("route demo --enable echo --function more").is_empty());
        assert!(lost("route demo --disable echo").is_empty(), "it was before");
        let lost = lost("route demo --remove spare --remove echo --disable count");
        let wait = |calls| Waiting { calls, or_more: true };
        let waiting =
            [("count".to_owned(), wait(1_024)), ("spare".to_owned(), Waiting { calls: 1, or_more: false })];
        insta::assert_snapshot!(lost.question("demo", &waiting.into()), @"Of the functions of demo, take away echo (0 calls wait for it, to become dead letters) and take away spare (1 call waits for it, to become dead letters) and disable count (at least 1024 calls wait for it, until it is enabled)?");
    }

    #[test]
    fn a_file_has_all_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("routes.json");
        let text = r#"{"fn_routes":{"spare":{"url":"http://a:1","standby":true,"active_group":[7]}}}"#;
        fs::write(&path, text).expect("written");
        let line = format!("route demo --routes {} --function-stateless report", path.display());
        let routes = change(Some(routes()), &line).expect("changed");
        assert_eq!(routes.fn_routes.keys().collect::<Vec<_>>(), ["report", "spare"]);
        assert_eq!(routes.fn_routes["spare"].active_group, [7]);
        assert!(routes.fn_routes["report"].stateless && routes.fn_routes["report"].url.is_empty());

        fs::write(&path, r#"{"routes":{}}"#).expect("written");
        let wrong = change(None, &line).expect_err("another form");
        assert!(wrong.contains("has no routes: unknown field `routes`"), "{wrong}");
    }
}
