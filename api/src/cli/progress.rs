//! Progress of long work, on standard error and only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a bar without news moves.
const TICK: Duration = Duration::from_millis(120);

/// A bar over bytes; a spinner where the size is not known.
pub(crate) fn bytes(total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => styled(
            ProgressBar::new(total),
            "{bar:32} {percent:>3}%  {bytes}/{total_bytes}  {elapsed_precise}  {msg}",
        ),
        None => counter("bytes"),
    }
}

/// A bar over so many things.
pub(crate) fn steps(total: u64, what: &str) -> ProgressBar {
    styled(
        ProgressBar::new(total),
        &format!(
            "{{bar:32}} {{percent:>3}}%  {{human_pos}}/{{human_len}} {what}  {{elapsed_precise}}  {{msg}}"
        ),
    )
}

/// A spinner that counts.
pub(crate) fn counter(what: &str) -> ProgressBar {
    let template = format!("{{spinner}} {{human_pos}} {what}  {{elapsed_precise}}  {{msg}}");
    let bar = styled(ProgressBar::new_spinner(), &template);
    bar.enable_steady_tick(TICK);
    bar
}

/// Nothing to see.
pub(crate) fn hidden() -> ProgressBar {
    ProgressBar::hidden()
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    // A template that does not parse is a mistake of this file; the default style is good enough then.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
