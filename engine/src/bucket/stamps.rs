//! When rows were accepted: few values for many rows, kept as runs.

use serde::{Deserialize, Serialize};

/// The stamps of consecutive rows, as (rows, microseconds since 1970); never falling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamps(Vec<(u32, i64)>);

impl Stamps {
    /// One stamp for all rows.
    pub fn one(rows: usize, stamp: i64) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.push(rows, stamp);
        stamps
    }

    pub fn push(&mut self, rows: usize, stamp: i64) {
        match self.0.last_mut() {
            Some((last_rows, last)) if *last == stamp => *last_rows += rows as u32,
            _ if rows > 0 => self.0.push((rows as u32, stamp)),
            _ => {}
        }
    }

    pub fn extend(&mut self, other: &Stamps) {
        for (rows, stamp) in &other.0 {
            self.push(*rows as usize, *stamp);
        }
    }

    pub fn rows(&self) -> usize {
        self.0.iter().map(|(rows, _)| *rows as usize).sum()
    }

    /// Of `length` rows from row `start` on.
    pub fn slice(&self, start: usize, length: usize) -> Stamps {
        let mut left = Stamps::default();
        let mut row = 0;
        for (rows, stamp) in &self.0 {
            let (from, to) = (row.max(start), (row + *rows as usize).min(start + length));
            if from < to {
                left.push(to - from, *stamp);
            }
            row += *rows as usize;
        }
        left
    }

    /// One value a row.
    pub fn values(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().flat_map(|(rows, stamp)| std::iter::repeat_n(*stamp, *rows as usize))
    }

    /// The first row whose stamp is at least `stamp`; the number of rows if there is none.
    pub fn first_at_or_after(&self, stamp: i64) -> usize {
        self.0.iter().take_while(|(_, own)| *own < stamp).map(|(rows, _)| *rows as usize).sum()
    }

    pub fn last(&self) -> Option<i64> {
        self.0.last().map(|(_, stamp)| *stamp)
    }

    pub fn first(&self) -> Option<i64> {
        self.0.first().map(|(_, stamp)| *stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_the_same_as_values() {
        let mut stamps = Stamps::one(3, 10);
        stamps.extend(&Stamps::one(2, 10));
        stamps.push(0, 15);
        stamps.push(4, 20);
        let values: Vec<_> = stamps.values().collect();
        assert_eq!(values, [10, 10, 10, 10, 10, 20, 20, 20, 20]);
        for start in 0..=9 {
            for length in 0..=9 - start {
                assert_eq!(stamps.slice(start, length).values().collect::<Vec<_>>(), values[start..start + length]);
            }
        }
        assert_eq!([9, 10, 11, 20, 21].map(|stamp| stamps.first_at_or_after(stamp)), [0, 0, 5, 5, 9]);
    }
}
