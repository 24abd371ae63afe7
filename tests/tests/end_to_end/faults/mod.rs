//! What goes wrong below the node is noticed, named, and never made worse: nothing is overwritten.

mod corruption;
mod directory;
mod space;

use odgm_tests::Result;
use odgm_tests::harness::{Acknowledged, Home, Objects};

/// Writes so many values and returns the last acknowledgement.
async fn write(things: &Objects, count: usize) -> Result<Acknowledged> {
    let writes = (0..count).map(|number| (format!("thing-{}", number % 50), "k", number.to_string()));
    Ok(things.set_values(writes.collect()).await?)
}

/// Starts a node that has to refuse, and returns why. The data directory is the same afterwards.
fn refusal(home: &Home) -> Result<String> {
    let before = home.snapshot()?;
    let refusal = home.refused()?;
    assert!(!refusal.status.success(), "it stopped with {}:\n{}", refusal.status, refusal.output);
    assert!(!refusal.output.contains("panicked"), "{}", refusal.output);
    assert_eq!(before.changed_in(&home.snapshot()?), [""; 0], "a refused start has changed files");
    let error = refusal.output.lines().rfind(|line| line.starts_with("odgm: "));
    let error = error.ok_or_else(|| format!("no error among:\n{}", refusal.output))?;
    // The only part that is not the same in every run.
    Ok(error.replace(&home.data().display().to_string(), "DATA"))
}
