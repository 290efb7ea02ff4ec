//! Counts what is declared, and tells it in the text format of Prometheus.
//!
//! Always: only declared metrics with exactly their declared labels are kept; a series goes when its table does. A histogram
//! has its buckets from the start, so a value is counted once and never kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use thermocline_schemas::{Metric, MetricKind};

#[derive(Clone)]
pub struct Recorder(Arc<HashMap<&'static str, Family>>);

/// All series of one metric.
struct Family {
    metric: &'static Metric,
    /// By the values of its labels, in their declared order.
    series: RwLock<BTreeMap<Vec<String>, Series>>,
}

#[derive(Clone)]
enum Series {
    /// A counter's number, or the bits of a gauge's.
    Number(Arc<AtomicU64>),
    Buckets(Arc<Buckets>),
}

struct Buckets {
    bounds: &'static [f64],
    /// One for each bound, of values up to it and past the one before; the last of those past all.
    counts: Vec<AtomicU64>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // Never refused: the closure always has a new value.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Recorder {
    pub fn new(all: impl Iterator<Item = &'static Metric>) -> Recorder {
        let families = all.map(|metric| (metric.name, Family { metric, series: RwLock::default() }));
        let families: HashMap<_, _> = families.collect();
        // What has no labels is there from the start, so that "never" can be told from "not measured".
        for family in families.values().filter(|family| family.metric.labels.is_empty()) {
            family.series(Vec::new());
        }
        Recorder(Arc::new(families))
    }

    fn find(&self, key: &Key) -> Option<Series> {
        let family = self.0.get(key.name())?;
        let value = |name: &&str| Some(key.labels().find(|label| label.key() == *name)?.value().to_owned());
        let values: Option<Vec<_>> = family.metric.labels.iter().map(value).collect();
        let values = values.filter(|values| values.len() == key.labels().len());
        debug_assert!(values.is_some(), "{key} does not have the labels that it is declared with");
        Some(family.series(values?))
    }

    /// Lets go of series whose value of `label` is none of these.
    pub fn retain(&self, label: &str, values: &BTreeSet<String>) {
        for family in self.0.values() {
            if let Some(place) = family.metric.labels.iter().position(|name| *name == label) {
                let mut series = family.series.write().unwrap_or_else(PoisonError::into_inner);
                series.retain(|labels, _| values.contains(&labels[place]));
            }
        }
    }

    pub fn render(&self) -> String {
        let mut families: Vec<_> = self.0.values().collect();
        families.sort_by_key(|family| family.metric.name);
        let mut out = String::new();
        for family in families {
            family.render(&mut out);
        }
        out
    }
}

impl Family {
    fn series(&self, values: Vec<String>) -> Series {
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&values) {
            return series.clone();
        }
        let fresh = || match self.metric.kind {
            MetricKind::Counter | MetricKind::Gauge => Series::Number(Arc::default()),
            MetricKind::Histogram(bounds) => {
                let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
                Series::Buckets(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }))
            }
        };
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        series.entry(values).or_insert_with(fresh).clone()
    }

    fn render(&self, out: &mut String) {
        let Metric { name, kind, labels, meaning } = self.metric;
        let type_name = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {meaning}\n# TYPE {name} {type_name}");
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (values, series) in all {
            let pairs = labels.iter().zip(&values).map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
            let pairs: Vec<_> = pairs.collect();
            let with = |more: Option<String>| match (&pairs[..], more) {
                ([], None) => String::new(),
                (pairs, more) => format!("{{{}}}", pairs.iter().cloned().chain(more).collect::<Vec<_>>().join(",")),
            };
            match series {
                Series::Number(number) => {
                    let bits = number.load(Ordering::Relaxed);
                    let _ = match kind {
                        MetricKind::Counter => writeln!(out, "{name}{} {bits}", with(None)),
                        _ => writeln!(out, "{name}{} {}", with(None), f64::from_bits(bits)),
                    };
                }
                Series::Buckets(buckets) => {
                    let mut count = 0;
                    let bounds = buckets.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                    for (bound, own) in bounds.zip(&buckets.counts) {
                        count += own.load(Ordering::Relaxed);
                        let _ = writeln!(out, "{name}_bucket{} {count}", with(Some(format!("le=\"{bound}\""))));
                    }
                    let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
                    let _ = writeln!(out, "{name}_sum{} {sum}\n{name}_count{} {count}", with(None), with(None));
                }
            }
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.find(key) {
            Some(Series::Number(number)) => Counter::from_arc(number),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.find(key) {
            Some(Series::Number(number)) => Gauge::from_arc(number),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.find(key) {
            Some(Series::Buckets(buckets)) => Histogram::from_arc(buckets),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Metric = Metric::counter("thermocline_rows_total", &["table"], "rows");
    const OPEN: Metric = Metric::gauge("thermocline_open", &[], "what is open");
    const SECONDS: Metric = Metric::histogram("thermocline_seconds", &["table"], &[0.5, 2.0], "how long");

    #[test]
    fn what_is_counted_is_told() {
        let recorder = Recorder::new([&ROWS, &OPEN, &SECONDS].into_iter());
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!(ROWS.name, "table" => "a.b").increment(3);
            metrics::counter!(ROWS.name, "table" => "a.\"\\\n").increment(1);
            metrics::gauge!(OPEN.name).set(2.0);
            metrics::gauge!(OPEN.name).decrement(0.5);
            for value in [0.5, 0.6, 2.5] {
                metrics::histogram!(SECONDS.name, "table" => "a.b").record(value);
            }
            metrics::counter!("thermocline_unknown_total").increment(1);
        });
        let expected = "# HELP thermocline_open what is open\n# TYPE thermocline_open gauge\nthermocline_open 1.5\n\
                        # HELP thermocline_rows_total rows\n# TYPE thermocline_rows_total counter\n\
                        thermocline_rows_total{table=\"a.\\\"\\\\\\n\"} 1\nthermocline_rows_total{table=\"a.b\"} 3\n\
                        # HELP thermocline_seconds how long\n# TYPE thermocline_seconds histogram\n\
                        thermocline_seconds_bucket{table=\"a.b\",le=\"0.5\"} 1\n\
                        thermocline_seconds_bucket{table=\"a.b\",le=\"2\"} 2\n\
                        thermocline_seconds_bucket{table=\"a.b\",le=\"+Inf\"} 3\n\
                        thermocline_seconds_sum{table=\"a.b\"} 3.6\nthermocline_seconds_count{table=\"a.b\"} 3\n";
        assert_eq!(recorder.render(), expected);
        recorder.retain("table", &BTreeSet::new());
        assert!(!recorder.render().contains("a.b"), "{}", recorder.render());
        assert!(recorder.render().contains("thermocline_open 1.5"));
    }
}
