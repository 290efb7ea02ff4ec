//! The promises that histories are held against, and how a broken one is told.

use std::fmt;

use crate::BucketStatus;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// An acked row is not there.
    Lost,
    /// A row is there twice.
    Doubled,
    /// A writer's rows are not in their order.
    Reordered,
    /// An offset is missing below one that is there.
    Gap,
    /// An offset holds another row than before.
    Changed,
    /// Some rows of a request are there and others are not.
    Torn,
    /// Less is there than was seen before.
    WentBack,
    /// A row that nobody sent, or that was refused.
    Foreign,
    /// A row is not where the answer said, or two answers say the same place.
    Misplaced,
    /// A filter gave a row that it should not have, or left out one that it should have given.
    Filter,
    /// The lake holds less or more than its offsets say.
    Lake,
    /// The marks of a bucket are not in order.
    Marks,
    /// A row is there that was replaced or deleted before.
    Resurrected,
    /// A change is not what the requests make of the state before it.
    Derived,
}

/// Which promise was broken, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.rule, self.message)
    }
}

impl std::error::Error for Violation {}

pub type Checked<T = ()> = Result<T, Violation>;

pub fn broken<T>(rule: Rule, message: String) -> Checked<T> {
    Err(Violation { rule, message })
}

/// Holds a bucket's marks against each other and against those before them, and keeps them.
pub fn check_marks(what: &str, before: &mut Option<BucketStatus>, marks: BucketStatus) -> Checked {
    let BucketStatus { bucket, log_start, trim_floor, tiered_end, durable_end } = marks;
    let found = format!(
        "{what}: bucket {bucket}: log_start {log_start}, trim_floor {trim_floor}, tiered_end {tiered_end}, \
         durable_end {durable_end}"
    );
    if !(log_start <= trim_floor && trim_floor <= tiered_end && tiered_end <= durable_end) {
        return broken(Rule::Marks, format!("{found} are not in order"));
    }
    if let Some(before) = before
        && (log_start < before.log_start || trim_floor < before.trim_floor || tiered_end < before.tiered_end)
    {
        return broken(Rule::WentBack, format!("{found}, after {before:?}"));
    }
    *before = Some(marks);
    Ok(())
}
