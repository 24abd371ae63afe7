//! The `odgm` command as people and scripts use it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use odgm_tests::harness::{Home, Node};
use serde_json::{Deserializer, Value};

use crate::Story;

/// Runs commands and keeps what they said, as a terminal would show it.
struct Session<'a, 'b> {
    node: &'a Node<'b>,
    transcript: String,
}

impl<'a, 'b> Session<'a, 'b> {
    fn with(node: &'a Node<'b>) -> Self {
        Self { node, transcript: String::new() }
    }

    fn run(&mut self, line: &str) -> Story {
        let ran = self.node.odgm(&line.split(' ').collect::<Vec<_>>())?;
        self.transcript.push_str(&format!("$ odgm {line}\n{}{}", ran.stdout, ran.stderr));
        if !ran.status.success() {
            self.transcript.push_str(&format!("[{}]\n", ran.status));
        }
        Ok(())
    }

    /// The transcript without what differs from run to run.
    fn told(&self) -> String {
        let endpoint = format!("http://{}", self.node.address());
        self.transcript.replace(&endpoint, "ENDPOINT").split('\n').map(stable).collect::<Vec<_>>().join("\n")
    }
}

/// A line with its times and hashes blanked, at the same width, so that tables stay in shape.
fn stable(line: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
    let mut told = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let is_time = word.len() >= 20 && word.ends_with('Z') && word.as_bytes()[4] == b'-';
        let is_hash = word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let is_millis = word.len() == 13 && word.bytes().all(|b| b.is_ascii_digit());
        told.push_str(before);
        match is_time || is_hash || is_millis {
            true => told.extend(word.chars().map(|_| '_')),
            false => told.push_str(word),
        }
        rest = after;
    }
    (told + rest).trim_end().to_owned()
}

#[tokio::test]
async fn a_session_in_tables() -> Story {
    let home = Home::new()?.collection("demo", 1);
    let node = home.start().await?;
    let mut session = Session::with(&node);
    for line in [
        "set demo/alice name=Alice city=Oslo",
        "merge demo/alice city=Bergen age=31",
        "entry set demo/alice city=Molde",
        "entry batch demo/alice zip=6400 --delete age",
        "entry set demo/alice city=Rome --expect-version 1",
        "get demo/alice",
        "entry get demo/alice city",
        "get demo/alice --at 3",
        "entry list demo/alice",
        "set demo/bob name=Bob",
        "list demo",
        "history demo/alice",
        "watch demo --from earliest --until-current",
        "delete demo/bob",
        "get demo/bob",
        "get nothing/bob",
        "set demo/0/alice",
        "collection list",
        "partition verify demo",
        "partition verify-view demo",
    ] {
        session.run(line)?;
    }
    insta::assert_snapshot!(session.told());
    Ok(())
}

#[tokio::test]
async fn everything_can_be_had_in_json_errors_too() -> Story {
    let home = Home::new()?.collection("demo", 1);
    let node = home.start().await?;
    for line in [
        "set demo/alice name=Alice city=Oslo",
        "merge demo/alice city=Bergen",
        "get demo/alice",
        "entry get demo/alice city",
        "entry list demo/alice",
        "list demo",
        "history demo/alice",
        "watch demo --from earliest --until-current --values",
        "collection list",
        "collection describe demo",
        "partition list demo",
        "partition verify demo",
        "stats",
        "config",
        "delete demo/alice",
    ] {
        let words: Vec<_> = line.split(' ').chain(["--json"]).collect();
        let told = node.odgm(&words)?.success().map_err(|error| format!("{line}: {error}"))?;
        let documents = Deserializer::from_str(&told).into_iter::<Value>().collect::<Result<Vec<_>, _>>();
        let documents = documents.map_err(|error| format!("{line}: {error}:\n{told}"))?;
        assert!(!documents.is_empty(), "{line} told nothing");
    }
    for (line, code) in [
        ("get demo/alice", 3),
        ("get nothing/alice", 3),
        ("entry set demo/bob k=v --expect-version 7", 4),
        ("collection create demo", 4),
        ("get demo/0/not:an:id!", 2),
    ] {
        let words: Vec<_> = line.split(' ').chain(["--json"]).collect();
        let (exit_code, told) = node.odgm(&words)?.failure().map_err(|error| format!("{line}: {error}"))?;
        assert_eq!(exit_code, code, "{line}: {told}");
        // What clap refuses is said in its own words.
        if let Ok(error) = serde_json::from_str::<Value>(&told) {
            assert_eq!(error["exit_code"], code, "{line}: {told}");
        } else {
            assert_eq!(code, 2, "{line}: {told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn import_and_export_are_inverse_whatever_the_bytes() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    for class in ["first", "second"] {
        node.odgm(&["collection", "create", class, "--partitions", "3"])?.success()?;
    }
    let operations = r#"
        {"op":"set","id":"a","entries":{"text":"naïve ☕ \"quoted\"","empty":""}}
        {"op":"merge","id":"b","entries":{"raw":{"base64":"/wCA/g=="}}}
        {"op":"merge","id":"c","entries":{"x":"1","y":"2"}}
        {"op":"delete_values","id":"c","keys":["x","absent"]}
        {"op":"set","id":"d","entries":{}}
        {"op":"set","id":"e","entries":{"gone":"1"}}
        {"op":"delete","id":"e"}
    "#;
    let file = home.data().with_file_name("operations.jsonl");
    fs::write(&file, operations.trim())?;
    let told = node.odgm(&["import", "--class", "first", file.to_str().unwrap_or_default()])?.success();
    let first = node.odgm(&["export", "--class", "first"])?.success()?;
    fs::write(&file, &first)?;
    node.odgm(&["import", "--class", "second", file.to_str().unwrap_or_default()])?.success()?;
    let second = node.odgm(&["export", "--class", "second"])?.success()?;
    assert_eq!(first, second, "{told:?}");
    let mut lines: Vec<_> = first.lines().collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    {"id":"a","entries":{"empty":"","text":"naïve ☕ \"quoted\""}}
    {"id":"b","entries":{"raw":{"base64":"/wCA/g=="}}}
    {"id":"c","entries":{"y":"2"}}
    {"id":"d","entries":{}}
    "#);
    Ok(())
}

#[tokio::test]
async fn an_import_stops_at_a_bad_line_and_names_it() -> Story {
    let home = Home::new()?.collection("demo", 2);
    let node = home.start().await?;
    let file = home.data().with_file_name("operations.jsonl");
    fs::write(&file, "{\"op\":\"merge\",\"id\":\"a\",\"entries\":{}}\n{\"op\":\"explode\",\"id\":\"a\"}\n")?;
    let (code, told) =
        node.odgm(&["import", "--class", "demo", file.to_str().unwrap_or_default()])?.failure()?;
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("line 2") || told.contains(":2"), "{told}");
    Ok(())
}

#[tokio::test]
async fn without_a_server_the_error_says_where_it_was_looked_for() -> Story {
    let home = Home::new()?.with("ODGM_ENDPOINT", "http://127.0.0.1:1");
    let (code, told) = home.odgm(&["list", "demo"])?.failure()?;
    assert_eq!(code, 5, "{told}");
    assert!(told.contains("http://127.0.0.1:1") && told.contains("ODGM_ENDPOINT"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_setting_is_refused_at_start_with_its_name_and_what_was_expected() -> Story {
    let settings = [
        ("ODGM_HTTP_PORT", "http"),
        ("ODGM_HTTP_PORT", "70000"),
        ("ODGM_REFLECTION_ENABLED", "perhaps"),
        ("ODGM_COLLECTION", "{"),
        ("ODGM_COLLECTION", r#"[{"name":"a","partition_count":1,"replica_count":1,"shard_type":"mst"}]"#),
        ("ODGM_FREE_SPACE_RESERVE", "lots"),
        ("ODGM_NODE_ID", "two words"),
    ];
    let mut told = Vec::new();
    for (name, value) in settings {
        let home = Home::new()?.with(name, value);
        let refusal = home.refused()?;
        assert!(!refusal.status.success());
        told.push(refusal.output.trim_end().to_owned());
        assert!(!home.data().exists(), "a data directory was made before the settings were checked");
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    odgm: ODGM_HTTP_PORT="http": expected a whole number from 0 to 65535
    odgm: ODGM_HTTP_PORT="70000": expected a whole number from 0 to 65535
    odgm: ODGM_REFLECTION_ENABLED="perhaps": expected true or false
    odgm: ODGM_COLLECTION="{": expected a JSON array of collections, as in [{"name": "objects"}]: invalid type: map, expected a sequence at line 1 column 0
    odgm: ODGM_COLLECTION="[{\"name\":\"a\",\"partition_count\":1,\"replica_count\":1,\"shard_type\":\"mst\"}]": expected valid collections: "a" has shard_type: this build does not replicate by mst yet; expected raft, basic, none or single
    odgm: ODGM_FREE_SPACE_RESERVE="lots": expected bytes, from 0 to 1099511627776, bare or as in 64MiB (KiB, MiB, GiB, TiB)
    odgm: ODGM_NODE_ID="two words": expected a number, or a name of 1 to 160 printable characters without spaces
    "#);
    Ok(())
}

#[tokio::test]
async fn config_lists_every_setting_with_what_holds() -> Story {
    let home = Home::new()?.with("ODGM_MAX_SUBSCRIPTIONS", "7");
    let config: Value = serde_json::from_str(&home.odgm(&["--json", "config"])?.success()?)?;
    let settings = config["settings"].as_array().cloned().unwrap_or_default();
    let find = |name: &str| settings.iter().find(|setting| setting["name"] == name);
    for name in ["ODGM_DATA_DIR", "ODGM_HTTP_PORT", "ODGM_COLLECTION", "ODGM_NODE_ID", "ODGM_LOG"] {
        assert!(find(name).is_some_and(|setting| setting["meaning"].is_string()), "{name}: {config}");
    }
    assert_eq!(find("ODGM_MAX_SUBSCRIPTIONS").map(|setting| setting["value"].clone()), Some("7".into()));
    Ok(())
}

#[tokio::test]
async fn a_watch_shows_what_happens_while_it_happens_and_ends_when_its_reader_does() -> Story {
    let home = Home::new()?.collection("demo", 2);
    let node = home.start().await?;
    let mut watch = node.odgm_command(&["watch", "demo", "--from", "earliest", "--json"])?;
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().ok_or("an output")?).lines();
    for number in 0..5_u32 {
        node.objects("demo", number % 2).set_value("alice", "k", &number.to_string()).await?;
        let line = lines.next().ok_or("the watch ended")??;
        let event: Value = serde_json::from_str(&line)?;
        assert_eq!(event["id"], "alice", "{line}");
    }
    drop(lines);
    // The next event finds nobody to be told to.
    node.objects("demo", 0).set_value("alice", "k", "last").await?;
    assert!(watch.wait()?.success());
    Ok(())
}
