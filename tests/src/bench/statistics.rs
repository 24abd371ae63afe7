//! Medians and ranges of rounds, and percentiles of latencies.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Samples;
use crate::Result;

/// The same figure from several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of no figures.
    pub(super) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (&min, &max) = (figures.first()?, figures.last()?);
        let upper = figures[figures.len() / 2];
        let lower = figures[(figures.len() - 1) / 2];
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
}

impl Latencies {
    /// Of all the samples together.
    pub(super) fn of<'a>(samples: impl IntoIterator<Item = &'a Samples>) -> Result<Self> {
        // Three significant digits, in nanoseconds.
        let mut histogram = Histogram::<u32>::new(3)?;
        for nanos in samples.into_iter().flat_map(|samples| &samples.nanos) {
            histogram.record(u64::from(*nanos))?;
        }
        #[allow(clippy::cast_precision_loss)] // nanoseconds in a u32
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Ok(Self { p50: micros(0.5), p99: micros(0.99), p99_9: micros(0.999) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 10.0]);
        assert_eq!(spread, Some(Spread { median: 3.0, min: 1.0, max: 10.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
