//! What a row of a log says happened.

use serde::{Deserialize, Serialize};

/// The kind of one change; the codes are persisted and are Fluss's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ChangeKind {
    /// `+A`: a row was appended to a log table.
    Append = 0,
    /// `+I`: a key that had no row has one.
    Insert = 1,
    /// `-U`: the row that an update replaces.
    UpdateBefore = 2,
    /// `+U`: the row that an update leaves.
    UpdateAfter = 3,
    /// `-D`: the row that was deleted.
    Delete = 4,
}

impl ChangeKind {
    pub const ALL: [ChangeKind; 5] =
        [ChangeKind::Append, ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter, ChangeKind::Delete];

    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<ChangeKind> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The short form that subscribers see.
    pub fn symbol(self) -> &'static str {
        match self {
            ChangeKind::Append => "+A",
            ChangeKind::Insert => "+I",
            ChangeKind::UpdateBefore => "-U",
            ChangeKind::UpdateAfter => "+U",
            ChangeKind::Delete => "-D",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_is_on_disk() {
        let codes: Vec<_> = ChangeKind::ALL.iter().map(|kind| (kind.code(), kind.symbol())).collect();
        assert_eq!(codes, [(0, "+A"), (1, "+I"), (2, "-U"), (3, "+U"), (4, "-D")]);
        assert_eq!(ChangeKind::from_code(5), None);
    }
}
