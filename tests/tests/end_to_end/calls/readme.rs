//! The README's page on functions, typed line by line as a reader would, with functions in either language.

use std::collections::VecDeque;

use odgm_tests::harness::{FunctionProcess, Home, Language, Node, routed, until};
use odgm_tests::process::Process;
use tokio::task::block_in_place;

use super::CLASS;
use crate::Story;

const README: &str = include_str!("../../../../README.md");

/// What a reader types instead of `odgm` where there is no alias.
const PROGRAM: &str = "target/debug/odgm ";

/// Where the page has functions.
const AT: &str = "at=http://127.0.0.1:7001";

/// The page as it is read: the lines that are still to be typed, and what stands for `$at`.
struct Page {
    lines: VecDeque<&'static str>,
    at: String,
}

impl Page {
    /// The lines of the page, without the remarks behind them.
    ///
    /// # Errors
    /// When there is none, or when a command that stays in the foreground has others below it, which nobody could type.
    fn open() -> odgm_tests::Result<Self> {
        let page = README.split_once("\n## Functions\n").ok_or("the README has a page on functions")?.1;
        let page = page.split("\n## ").next().unwrap_or_default();
        let mut blocks = vec![Vec::new()];
        for line in page.lines() {
            match (line.strip_prefix("    "), blocks.last_mut()) {
                (Some(typed), Some(block)) => {
                    block.push(typed.split(" # ").next().unwrap_or_default().trim_end());
                }
                _ => blocks.push(Vec::new()),
            }
        }
        let stays = |line: &str| line.starts_with("make ") || line.contains(" watch ");
        for block in &blocks {
            if block.len() > 1 && block.iter().any(|line| stays(line)) {
                return Err(format!("a command that does not end is typed with others: {block:?}").into());
            }
        }
        Ok(Self { lines: blocks.into_iter().flatten().collect(), at: String::new() })
    }

    /// What is done next, in whatever terminal.
    fn next(&mut self) -> odgm_tests::Result<String> {
        let line = self.lines.pop_front().ok_or("the page has ended")?;
        Ok(line.replace("$at", &self.at))
    }

    /// Requires that the next line is this one, which the story does in its own way.
    fn says(&mut self, line: &str) -> Story {
        let next = self.next()?;
        if next == line { Ok(()) } else { Err(format!("the page says {next:?}, not {line:?}").into()) }
    }

    /// The next line, a command of `odgm` that begins so.
    fn command(&mut self, begins: &str) -> odgm_tests::Result<String> {
        let line = self.next()?;
        let command = line.strip_prefix("odgm ").filter(|command| command.starts_with(begins));
        let command = command.ok_or_else(|| format!("the page says {line:?}, not \"odgm {begins} ...\""))?;
        Ok(command.to_owned())
    }

    /// Types the next line, which begins so, and answers what came of it.
    fn types(&mut self, node: &Node<'_>, begins: &str) -> odgm_tests::Result<String> {
        run(node, &self.command(begins)?)
    }

    /// The same, again and again until it says what the page promises.
    async fn until(
        &mut self,
        node: &Node<'_>,
        begins: &str,
        promised: impl Fn(&str) -> bool,
    ) -> odgm_tests::Result<String> {
        let command = self.command(begins)?;
        let waiting = || format!("`odgm {command}` to say what the README promises");
        until(waiting, async || Ok(Some(run(node, &command)?).filter(|said| promised(said)))).await
    }
}

fn run(node: &Node<'_>, command: &str) -> odgm_tests::Result<String> {
    let words: Vec<_> = command.split(' ').collect();
    block_in_place(|| node.odgm(&words)?.success()).map_err(|error| format!("odgm {command}: {error}").into())
}

/// Whether a table of entries has this one.
fn has(said: &str, key: &str, value: &str) -> bool {
    said.lines().any(|line| line.split_whitespace().eq([key, value]))
}

/// The offset of the first line with a turn in the table of a history.
fn first_turn(history: &str) -> odgm_tests::Result<&str> {
    let line = history.lines().find(|line| line.contains("turn")).ok_or("there is a line with a turn")?;
    Ok(line.split_whitespace().next().ok_or("a line begins with its offset")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_on_functions_is_true_of_functions_in_python() -> Story {
    as_in_the_readme(Language::Python).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_on_functions_is_true_of_functions_in_rust() -> Story {
    as_in_the_readme(Language::Rust).await
}

async fn as_in_the_readme(language: Language) -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let mut page = Page::open()?;
    page.says("make functions")?;
    let functions = FunctionProcess::start(language, node.address()).await?;
    page.says("alias odgm=target/debug/odgm")?;
    page.says(AT)?;
    page.at = functions.url();
    page.types(&node, "collection create shop")?;
    let watch = page.next()?.strip_prefix(PROGRAM).map(str::to_owned).ok_or("what is typed is a watch")?;
    let words: Vec<_> = watch.split(' ').collect();
    let watch =
        Process::spawn("odgm watch", node.odgm_command(&words)?, &home.data().with_file_name("watch"))?;
    let shown = async |words: &[&str]| {
        let waiting = || format!("the watch to show {words:?}:\n{}", watch.output());
        let is_there = |line: &str| words.iter().all(|word| line.contains(word));
        until(waiting, async || Ok(watch.output().lines().any(is_there).then_some(()))).await
    };

    assert_eq!(page.types(&node, "invoke")?, "1");
    shown(&["completed", "visits", "count"]).await?;
    page.types(&node, "trigger set shop/0/order")?;
    page.types(&node, "set shop/0/order")?;
    page.until(&node, "get shop/0/visits", |said| has(said, "count", "2")).await?;
    shown(&["updated", "order", "+state"]).await?;

    let port = functions.port();
    functions.interrupt()?;
    page.types(&node, "set shop/0/order")?;
    let why = "the function was not reached";
    page.until(&node, "calls shop", |said| said.contains("shop/0/visits/count") && said.contains(why))
        .await?;
    node.kill()?;
    let node = home.start().await?;
    let _functions = FunctionProcess::start_at(language, node.address(), port).await?;
    page.until(&node, "calls shop", |said| !said.contains("shop/0/visits/count")).await?;
    let said = page.types(&node, "get shop/0/visits")?;
    assert!(has(&said, "count", "3"), "{said}");

    page.types(&node, "trigger set shop/0/a")?;
    page.types(&node, "trigger set shop/0/b")?;
    page.types(&node, "set shop/0/a")?;
    let why = "depth 11 is beyond max_trigger_depth 10";
    page.until(&node, "dead-letter list shop", |said| said.contains(why)).await?;
    node.connection().settled(&["shop"]).await?;
    let history = page.types(&node, "history shop/0/a")?;
    let trace = page.command("trace")?.replace("OFFSET", first_turn(&history)?);
    let traced = run(&node, &trace)?;
    assert!(traced.lines().next().is_some_and(|line| line.ends_with("set a: turn=0")), "{traced}");
    let count = |words: &str| traced.lines().filter(|line| line.contains(words)).count();
    assert_eq!((count("turn="), count(" completed in "), count(why)), (11, 10, 1), "{traced}");
    assert_eq!(page.lines, [""; 0], "the rest of the page was not typed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_that_both_languages_have_do_the_same() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    for (language, class) in [(Language::Rust, CLASS), (Language::Python, "others")] {
        let functions = FunctionProcess::start(language, node.address()).await?;
        let names = ["echo", "fail", "slow", "nothing"];
        node.connection().create(routed(class, 1, &names, &functions.url())).await?;
        let things = node.objects(class, 0);
        let mut told = Vec::new();
        for (function, payload) in [("echo", "hello"), ("fail", ""), ("slow", "10"), ("slow", "long")] {
            told.push(match things.invoke(None, function, payload).await {
                Ok(answer) => {
                    let payload = answer.payload.clone().unwrap_or_default();
                    format!("{function}: {:?} {}", answer.status(), String::from_utf8_lossy(&payload))
                }
                Err(status) => format!("{function}: {:?} {}", status.code(), status.message()),
            });
        }
        let unknown = things.invoke(None, "nothing", "").await.expect_err("there is no such example");
        told.push(format!("nothing: {:?}", unknown.code()));
        insta::allow_duplicates! {
            insta::assert_snapshot!(told.join("\n"), @r"
            echo: Okay hello
            fail: AppError fail refuses whatever it is asked
            slow: Okay waited 10 ms
            slow: InvalidArgument slow: expected milliseconds, at most 600000
            nothing: Unimplemented
            ");
        }
    }
    Ok(())
}
