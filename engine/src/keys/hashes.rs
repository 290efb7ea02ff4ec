//! Keys as numbers: 128 bits of SipHash under a secret of the table, over the key columns in a canonical form.
//!
//! Nobody outside knows the secret, so nobody can make two keys meet; by chance two of 2³² keys meet with odds of 2⁻⁶⁵.
//! Arrow's row format is the canonical form: equal values of a column have equal bytes, whatever array they stand in.

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, Rows, SortField};
use std::sync::OnceLock;

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use thermocline_schemas::{Code, Error, Result, TableDescriptor};

/// A key in Arrow's row format, which takes up to 33 bytes for 32 of text, is at most this long.
const KEY_BYTES_MAX: usize = 64 << 10;

/// What the hashes of one table are made with.
pub type Secret = (u64, u64);

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u128);

/// How the keys of one table become [`KeyHash`]es.
#[derive(Debug)]
pub struct KeyHasher {
    converter: RowConverter,
    /// Of the first column alone, where keys are grouped by it.
    groups: Option<RowConverter>,
    /// Drawn when it is first needed, unless an index snapshot brought it.
    secret: OnceLock<Secret>,
}

impl KeyHasher {
    pub fn new(descriptor: &TableDescriptor) -> Result<KeyHasher> {
        let places = descriptor.key_places();
        let columns = descriptor.schema.columns();
        let fields: Vec<_> = places.iter().map(|place| SortField::new(columns[*place].column_type.arrow())).collect();
        let first = fields[..1].to_vec();
        let groups = descriptor.group_column().map(|_| RowConverter::new(first)).transpose()?;
        Ok(KeyHasher { converter: RowConverter::new(fields)?, groups, secret: OnceLock::new() })
    }

    pub fn secret(&self) -> Secret {
        *self.secret.get_or_init(rand::random)
    }

    /// Takes the secret of hashes that were made before; an error if others were made since.
    pub fn take_secret(&self, secret: Secret) -> Result<()> {
        match *self.secret.get_or_init(|| secret) == secret {
            true => Ok(()),
            false => Err(Error::corrupt("the hashes of an index snapshot have another secret than the table's")),
        }
    }

    /// The keys of these key columns, in the key's order.
    pub fn hash_columns(&self, columns: &[ArrayRef]) -> Result<Vec<KeyHash>> {
        let keys = self.converter.convert_columns(columns)?;
        if let Some((row, bytes)) = keys.lengths().enumerate().find(|(_, bytes)| *bytes > KEY_BYTES_MAX) {
            return Err(too_large(row, bytes));
        }
        Ok(self.hash_rows(&keys))
    }

    /// What is wrong with keys that are too large, by row.
    pub fn wrong_keys(&self, columns: &[ArrayRef]) -> Result<Vec<(usize, Error)>> {
        let keys = self.converter.convert_columns(columns)?;
        let large = keys.lengths().enumerate().filter(|(_, bytes)| *bytes > KEY_BYTES_MAX);
        Ok(large.map(|(row, bytes)| (row, too_large(row, bytes))).collect())
    }

    /// The groups of keys that begin with these values of the key's first column; none if keys are not grouped.
    pub fn hash_groups(&self, first: &ArrayRef) -> Result<Option<Vec<KeyHash>>> {
        let Some(converter) = &self.groups else { return Ok(None) };
        Ok(Some(self.hash_rows(&converter.convert_columns(std::slice::from_ref(first))?)))
    }

    pub fn is_grouped(&self) -> bool {
        self.groups.is_some()
    }

    fn hash_rows(&self, rows: &Rows) -> Vec<KeyHash> {
        let secret = self.secret();
        let hash = |key: arrow::row::Row<'_>| {
            let mut hasher = SipHasher13::new_with_keys(secret.0, secret.1);
            hasher.write(key.as_ref());
            KeyHash(hasher.finish128().as_u128())
        };
        rows.iter().map(hash).collect()
    }
}

fn too_large(row: usize, bytes: usize) -> Error {
    Error::new(Code::InvalidRow, format!("the key has {bytes} bytes, {KEY_BYTES_MAX} are the most"))
        .with_row(row as u64)
}
