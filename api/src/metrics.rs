//! What this process counts: the recorder of the `metrics` facade, and what it has recorded.
//!
//! There is one of a process, however many nodes run in it. It keeps counters and gauges; of a histogram it keeps how many
//! values there were, and their sum.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use odgm_proto::odgm::v1;
use parking_lot::RwLock;

/// Figures that are kept, labels told apart. Beyond them those of partitions that are not worked on here any more give way to new ones,
/// and if there are none nothing new is counted.
const MAX_FIGURES: usize = 10_000;

static RECORDED: OnceLock<Recorded> = OnceLock::new();

/// Begins to record, if nobody in this process does yet.
pub(crate) fn install() {
    let recorded = RECORDED.get_or_init(Recorded::default).clone();
    // The second node of a process finds that there is one.
    if metrics::set_global_recorder(recorded).is_ok() {
        odgm_triggers::metrics::describe();
    }
}

/// Everything that has been recorded, by name.
pub(crate) fn all() -> Vec<v1::Metric> {
    RECORDED.get().map(Recorded::list).unwrap_or_default()
}

/// A figure that is looked at now, as if it had been recorded.
pub(crate) fn figure(name: &str, labels: &[(&str, &str)], value: f64) -> v1::Metric {
    let help = RECORDED.get().and_then(|recorded| recorded.help.read().get(name).cloned());
    let name = named(name, labels.iter().copied());
    v1::Metric { name, value, help: help.unwrap_or_default() }
}

/// The name of a figure with its labels, as in `calls_total{class="demo"}`.
fn named<'a>(name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let labels: Vec<_> = labels.map(|(label, value)| format!("{label}={value:?}")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// What has been recorded. Clones are the same.
#[derive(Clone, Default)]
struct Recorded {
    figures: Arc<RwLock<BTreeMap<String, Figure>>>,
    help: Arc<RwLock<BTreeMap<String, String>>>,
    /// Whether it has been said that something is not counted.
    is_full: Arc<AtomicBool>,
}

/// One figure, and the name without its labels.
struct Figure {
    name: String,
    value: Value,
    /// Whether it is one of a partition, and so may come to an end.
    is_of_partition: bool,
}

#[derive(Clone)]
enum Value {
    Counter(Arc<AtomicU64>),
    /// The bits of a floating-point number.
    Gauge(Arc<AtomicU64>),
    Summary(Arc<Summary>),
}

impl Figure {
    /// Whether somebody still counts, or may again without asking for it anew.
    fn is_used(&self) -> bool {
        let holders = match &self.value {
            Value::Counter(bits) | Value::Gauge(bits) => Arc::strong_count(bits),
            Value::Summary(summary) => Arc::strong_count(summary),
        };
        !self.is_of_partition || holders > 1
    }
}

/// How many values there were, and the bits of their sum.
#[derive(Default)]
struct Summary {
    count: AtomicU64,
    sum: AtomicU64,
}

impl HistogramFn for Summary {
    fn record(&self, value: f64) {
        self.count.fetch_add(1, Ordering::Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}

impl Recorded {
    /// The figure of that key; a new one is kept if there is room.
    fn value(&self, key: &Key, new: fn() -> Value) -> Value {
        let full = named(key.name(), key.labels().map(|label| (label.key(), label.value())));
        if let Some(known) = self.figures.read().get(&full) {
            return known.value.clone();
        }
        let mut figures = self.figures.write();
        if figures.len() >= MAX_FIGURES && !figures.contains_key(&full) {
            figures.retain(|_, figure| figure.is_used());
        }
        if figures.len() >= MAX_FIGURES && !figures.contains_key(&full) {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    figure = full,
                    most = MAX_FIGURES,
                    "there are too many figures: new ones are not counted"
                );
            }
            return new();
        }
        let is_of_partition = key.labels().any(|label| label.key() == "partition");
        let new = || Figure { name: key.name().to_owned(), value: new(), is_of_partition };
        figures.entry(full).or_insert_with(new).value.clone()
    }

    fn describe(&self, key: &KeyName, description: &SharedString) {
        self.help.write().insert(key.as_str().to_owned(), description.to_string());
    }

    fn list(&self) -> Vec<v1::Metric> {
        let help = self.help.read();
        let figures = self.figures.read();
        let mut list = Vec::with_capacity(figures.len());
        for (full, figure) in figures.iter() {
            let help = help.get(&figure.name).cloned().unwrap_or_default();
            let mut add = |name: String, value| list.push(v1::Metric { name, value, help: help.clone() });
            match &figure.value {
                Value::Counter(count) => add(full.clone(), as_float(count)),
                Value::Gauge(bits) => add(full.clone(), f64::from_bits(bits.load(Ordering::Relaxed))),
                Value::Summary(summary) => {
                    let labels = &full[figure.name.len()..];
                    add(format!("{}_count{labels}", figure.name), as_float(&summary.count));
                    let sum = f64::from_bits(summary.sum.load(Ordering::Relaxed));
                    add(format!("{}_sum{labels}", figure.name), sum);
                }
            }
        }
        list
    }
}

// Counters beyond 2^53 would be shown rounded.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&key, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.value(key, || Value::Counter(Arc::default())) {
            Value::Counter(count) => Counter::from_arc(count),
            // The name is another kind's.
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.value(key, || Value::Gauge(Arc::default())) {
            Value::Gauge(bits) => Gauge::from_arc(bits),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.value(key, || Value::Summary(Arc::default())) {
            Value::Summary(summary) => Histogram::from_arc(summary),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_listed_with_its_labels_and_its_meaning() {
        let recorded = Recorded::default();
        metrics::with_local_recorder(&recorded, || {
            metrics::describe_counter!("calls_total", "calls that were made");
            metrics::counter!("calls_total", "class" => "demo").increment(2);
            metrics::counter!("calls_total", "class" => "demo").increment(1);
            metrics::counter!("calls_total", "class" => "a \"b\"").increment(1);
            metrics::gauge!("waiting").set(7.5);
            metrics::gauge!("waiting").decrement(1.0);
            metrics::histogram!("took_seconds", "class" => "demo").record(0.25);
            metrics::histogram!("took_seconds", "class" => "demo").record(0.5);
            // Not what it was registered as.
            metrics::gauge!("calls_total", "class" => "demo").set(99.0);
        });
        let lines = recorded.list().into_iter();
        let lines = lines.map(|m| format!("{} {} {}", m.name, m.value, m.help).trim_end().to_owned());
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
        calls_total{class="a \"b\""} 1 calls that were made
        calls_total{class="demo"} 3 calls that were made
        took_seconds_count{class="demo"} 2
        took_seconds_sum{class="demo"} 0.75
        waiting 6.5
        "#);
    }

    #[test]
    fn beyond_the_bound_nothing_new_is_kept() {
        let recorded = Recorded::default();
        metrics::with_local_recorder(&recorded, || {
            for n in 0..=MAX_FIGURES {
                metrics::counter!("n", "n" => n.to_string()).increment(1);
            }
        });
        assert_eq!(recorded.list().len(), MAX_FIGURES);
    }

    #[test]
    fn partitions_that_are_not_worked_on_any_more_make_room_for_others() {
        let recorded = Recorded::default();
        metrics::with_local_recorder(&recorded, || {
            let of = |n: usize| metrics::counter!("n", "partition" => n.to_string());
            metrics::counter!("total").increment(1);
            let used = of(0);
            (1..MAX_FIGURES - 1).for_each(|n| of(n).increment(1));
            assert_eq!(recorded.list().len(), MAX_FIGURES);
            let new = of(MAX_FIGURES);
            used.increment(1);
            new.increment(2);
        });
        let lines: Vec<_> = recorded.list().into_iter().map(|m| format!("{} {}", m.name, m.value)).collect();
        let new = format!("n{{partition=\"{MAX_FIGURES}\"}} 2");
        assert_eq!(lines, ["n{partition=\"0\"} 1", new.as_str(), "total 1"]);
    }
}
