//! The functions in Python, by the commands of the README.

use odgm_tests::harness::{FunctionProcess, Home, Language, until};
use tokio::task::block_in_place;

use crate::Story;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_in_python_are_called_by_clients_and_triggers() -> Story {
    as_in_the_readme(Language::Python).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_in_rust_are_called_by_clients_and_triggers() -> Story {
    as_in_the_readme(Language::Rust).await
}

async fn as_in_the_readme(language: Language) -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = FunctionProcess::start(language, node.address()).await?;
    let url = functions.url();
    let run = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        block_in_place(|| node.odgm(&words)?.success()).map_err(|error| format!("odgm {line}: {error}"))
    };
    let routes: Vec<_> = ["echo", "count", "fail", "slow", "loop-a", "loop-b"]
        .iter()
        .map(|function| format!("--function {function}={url}"))
        .collect();
    run(&format!("collection create shop --partitions 1 {}", routes.join(" ")))?;
    let shop = node.objects("shop", 0);

    assert_eq!(shop.invoke(None, "echo", "hello").await?.payload.as_deref(), Some(&b"hello"[..]));
    assert_eq!(shop.invoke(None, "slow", "10").await?.payload.as_deref(), Some(&b"waited 10 ms"[..]));
    assert!(shop.invoke(None, "fail", "").await?.status != 0);
    run("invoke shop/0/visits count")?;
    assert_eq!(shop.value("visits", "count").await?.as_deref(), Some("1"));

    run(
        "trigger add shop/0/order --on-create state=shop/0/visits/count --on-update state=shop/0/visits/count",
    )?;
    run("set shop/0/order state=paid")?;
    run("set shop/0/order state=sent")?;
    node.connection().settled(&["shop"]).await?;
    assert_eq!(shop.value("visits", "count").await?.as_deref(), Some("3"));

    // The process goes; calls wait, and are made when it is back.
    let port = functions.port();
    functions.kill()?;
    run("set shop/0/order state=lost")?;
    let waiting = || "the call to have failed once".to_owned();
    until(waiting, async || {
        let pending = node.connection().pending("shop").await?;
        Ok(pending.iter().any(|call| !call.last_error.is_empty()).then_some(()))
    })
    .await?;
    let _functions = FunctionProcess::start_at(language, node.address(), port).await?;
    node.connection().settled(&["shop"]).await?;
    assert_eq!(shop.value("visits", "count").await?.as_deref(), Some("4"));

    // Two that call each other, until it is enough.
    for (object, next) in [("a", "b"), ("b", "a")] {
        let called = format!("turn=shop/0/{object}/loop-{next}");
        run(&format!("trigger set shop/0/{object} --on-create {called} --on-update {called}"))?;
    }
    run("set shop/0/a turn=0")?;
    let dead = node.connection().died("shop", 1).await?;
    assert_eq!(dead[0].depth, 11, "{dead:?}");
    assert_eq!(shop.value("a", "turn").await?.as_deref(), Some("10"));
    Ok(())
}
