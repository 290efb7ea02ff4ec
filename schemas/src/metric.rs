//! How each crate declares what it measures: a list of these in its `metric_names`, from which `/metrics` and README are told.
//!
//! Always: names start with `thermocline_` and end in their unit, those of counters in `_total`; labels are few, and each
//! takes its values from a closed set or from the tables that there are.

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    /// One line for people.
    pub meaning: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    Gauge,
    /// Counts values up to each of these.
    Histogram(&'static [f64]),
}

impl Metric {
    pub const fn counter(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
        Metric { name, kind: MetricKind::Counter, labels, meaning }
    }

    pub const fn gauge(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
        Metric { name, kind: MetricKind::Gauge, labels, meaning }
    }

    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
        meaning: &'static str,
    ) -> Metric {
        Metric { name, kind: MetricKind::Histogram(bounds), labels, meaning }
    }
}
