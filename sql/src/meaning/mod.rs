//! What expressions mean, where DataFusion 54 alone would answer otherwise.
//!
//! Before and behind its type coercion plans are rewritten (`analyzer_rules`): what NOT IN says of nulls, whole numbers that
//! do not wrap, casts and literals as they are written. Behind its optimizer it is looked at what a query may do while it
//! runs (`state_for`), and its physical rules run where they are sound (`physical_rules`). Three of its aggregates are
//! wrapped (`aggregate`). What cannot be repaired so is refused (`refused`).
//!
//! Always: a query that DataFusion answers rightly is answered so still, refused by name, or fails of a number that is too
//! large; columns of answers keep their names. Each repair has its test in `tests/meaning.rs`, and goes when DataFusion no
//! longer needs it.

mod casts;
mod comparisons;
mod decimals;
mod dynamic_filters;
mod extremes;
mod integers;
mod named_once;
mod not_in;
mod null_keys;
mod refused;
mod times;
mod uuids;

use std::sync::Arc;

use datafusion::logical_expr::AggregateUDF;
use datafusion::optimizer::{Analyzer, AnalyzerRule};

pub(crate) use casts::has_digit;
pub(crate) use dynamic_filters::state_for;
pub(crate) use named_once::physical_rules;
pub(crate) use not_in::ALONE;

/// DataFusion's own, of which the last brings types together, and ours around it.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let before: [Arc<dyn AnalyzerRule + Send + Sync>; 5] = [
        Arc::new(refused::Refused),
        Arc::new(null_keys::NullKeys),
        Arc::new(uuids::UuidsAmongTexts),
        Arc::new(times::FarTimes),
        Arc::new(casts::CastsStay),
    ];
    let mut rules = Analyzer::new().rules;
    let last = rules.len().saturating_sub(1);
    rules.splice(last..last, before);
    rules.push(Arc::new(not_in::InBesideOr));
    rules.push(Arc::new(decimals::ExactDecimals));
    rules.push(Arc::new(casts::DecimalTexts));
    rules.push(Arc::new(integers::IntegersDoNotWrap));
    rules
}

/// An aggregate function of DataFusion's as it is meant.
pub(crate) fn aggregate(function: &Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    match function.name() {
        "sum" => Arc::new(AggregateUDF::new_from_impl(integers::ExactSum(function.clone()))),
        "min" | "max" => Arc::new(AggregateUDF::new_from_impl(extremes::Extreme(function.clone()))),
        _ => function.clone(),
    }
}
