//! Table properties: the words of `WITH (name = value, …)`, in one list that parsing, checking and `DESCRIBE` all use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result, TableKind};

/// One property that a table may have.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    /// As DDL would write it; empty = none.
    pub default: &'static str,
    /// Whether `ALTER TABLE … SET` may change it.
    pub alterable: bool,
    pub meaning: &'static str,
    built: bool,
}

/// A property of one table, as people are shown it.
#[derive(Clone, Debug)]
pub struct PropertyRow {
    pub definition: &'static Definition,
    /// As DDL would write it.
    pub value: String,
    /// What it is when DDL says nothing.
    pub default: &'static str,
}

macro_rules! definitions {
    ($($name:literal $default:literal $alterable:literal $built:literal $meaning:literal;)*) => {
        /// Every property, built or planned.
        pub const DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name, default: $default, alterable: $alterable, built: $built, meaning: $meaning,
        },)*];
    };
}

definitions! {
    "buckets" "1" false true "how many buckets, 1 to 4096";
    "bucket_key" "" false true "the column whose hash picks the bucket";
    "partition_by" "" false true "what rows of one partition have in common, as 'day(ts), region'";
    "lake_enabled" "true" false true "whether rows are tiered to the lake";
    "lake_freshness" "30s" true true "how old the oldest row that is not yet in the lake may grow";
    "format_version" "2" true true "the Iceberg format version, 2 or 3; the default is 3 with a PRIMARY KEY; never lowered";
    "lake_changelog" "false" false false "whether every change is kept in a second lake table";
    "hot_retention" "1h" true true "how long rows stay hot once they are in the lake";
    "hot_bytes_max" "" true true "how many bytes of hot rows to keep once they are in the lake, as 512MiB; less than hot_retention if need be";
    "changelog" "full" false true "full: an update is -U and +U; upsert: every write is +U, no old rows";
    "merge_engine" "last_row" false false "last_row, first_row, versioned or aggregation";
    "version_column" "" false false "the column that the versioned merge engine compares";
    "delete_behavior" "allow" false true "what becomes of deletes: allow, ignore or refuse";
    "drop_retention" "7d" true true "how long a dropped table can be brought back with UNDROP TABLE";
    "partition_retention" "" true true "how long a partition is kept once the year, month, day or hour that it is of is over";
    "snapshot_retention" "1h" true true "how long a lake snapshot is kept once there is a newer one, an hour at least";
}

const BUCKETS_MAX: u64 = 4096;
/// A hundred years; longer ones are mistakes, and would not fit in microseconds for ever.
const DURATION_MS_MAX: u64 = 36_500 * 86_400_000;

/// The checked properties of a table. What is not set has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    pub buckets: u32,
    pub bucket_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    pub lake_enabled: bool,
    pub lake_freshness_ms: u64,
    /// None where nobody asked and the kind of table is not known yet; see [`Self::format_version`].
    pub(crate) format_version: Option<u8>,
    pub hot_retention_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_bytes_max: Option<u64>,
    #[serde(default)]
    pub changelog: Changelog,
    #[serde(default)]
    pub delete_behavior: DeleteBehavior,
    /// Tables from before there was this property have the default.
    #[serde(default = "snapshot_retention_default")]
    pub snapshot_retention_ms: u64,
    #[serde(default = "drop_retention_default")]
    pub drop_retention_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_retention_ms: Option<u64>,
}

/// What the changelog of a primary-key table says of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changelog {
    /// `+I` for a new key, `-U` with the old row and `+U` for an update.
    #[default]
    Full,
    /// `+U` for every write.
    Upsert,
}

/// What becomes of deletes in a primary-key table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteBehavior {
    #[default]
    Allow,
    /// They are skipped, and counted in the answer.
    Ignore,
    /// A request with a delete is refused.
    Refuse,
}

impl Default for Properties {
    fn default() -> Properties {
        Properties {
            buckets: 1,
            bucket_key: None,
            partition_by: None,
            lake_enabled: true,
            lake_freshness_ms: 30_000,
            format_version: None,
            hot_retention_ms: 3_600_000,
            hot_bytes_max: None,
            changelog: Changelog::Full,
            delete_behavior: DeleteBehavior::Allow,
            snapshot_retention_ms: snapshot_retention_default(),
            drop_retention_ms: drop_retention_default(),
            partition_retention_ms: None,
        }
    }
}

fn snapshot_retention_default() -> u64 {
    3_600_000
}

fn drop_retention_default() -> u64 {
    7 * 86_400_000
}

impl Properties {
    /// Those of the table of rows that were set aside: they are kept as the others are.
    pub fn of_rejected(&self) -> Properties {
        Properties {
            lake_enabled: self.lake_enabled,
            lake_freshness_ms: self.lake_freshness_ms,
            hot_retention_ms: self.hot_retention_ms,
            snapshot_retention_ms: self.snapshot_retention_ms,
            drop_retention_ms: self.drop_retention_ms,
            ..Properties::default()
        }
    }

    /// Checks name and value of each; a name that is none of ours is refused with the list of those that are.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Properties> {
        let mut properties = Properties::default();
        let mut seen = BTreeMap::new();
        for (name, value) in pairs {
            if seen.insert(name, ()).is_some() {
                return Err(refuse(name, value, "is set twice"));
            }
            properties.set(name, value)?;
        }
        Ok(properties)
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(definition) = DEFINITIONS.iter().find(|definition| definition.name == name) else {
            let known: Vec<_> = DEFINITIONS.iter().map(|definition| definition.name).collect();
            return Err(
                refuse(name, value, "is not a table property").with_hint(format!("one of: {}", known.join(", ")))
            );
        };
        if !definition.built {
            return if value == definition.default {
                Ok(())
            } else {
                Err(Error::not_built(format!("the table property {name}")))
            };
        }
        match name {
            "buckets" => match value.parse::<u64>() {
                Ok(count @ 1..=BUCKETS_MAX) => self.buckets = count as u32,
                _ => return Err(refuse(name, value, "must be a number from 1 to 4096")),
            },
            "bucket_key" => self.bucket_key = Some(value.to_owned()),
            "partition_by" => self.partition_by = Some(value.to_owned()),
            "lake_enabled" => {
                self.lake_enabled = value.parse().map_err(|_| refuse(name, value, "must be true or false"))?;
            }
            "lake_freshness" => self.lake_freshness_ms = duration(name, value)?.max(100),
            "format_version" => match value {
                "2" => self.format_version = Some(2),
                "3" => self.format_version = Some(3),
                _ => return Err(refuse(name, value, "must be 2 or 3")),
            },
            "hot_retention" => self.hot_retention_ms = duration(name, value)?,
            "hot_bytes_max" => {
                self.hot_bytes_max = if value.is_empty() { None } else { Some(bytes(name, value)?) };
            }
            "changelog" => match value {
                "full" => self.changelog = Changelog::Full,
                "upsert" => self.changelog = Changelog::Upsert,
                _ => return Err(refuse(name, value, "must be full or upsert")),
            },
            "delete_behavior" => match value {
                "allow" => self.delete_behavior = DeleteBehavior::Allow,
                "ignore" => self.delete_behavior = DeleteBehavior::Ignore,
                "refuse" => self.delete_behavior = DeleteBehavior::Refuse,
                _ => return Err(refuse(name, value, "must be allow, ignore or refuse")),
            },
            "partition_retention" => {
                self.partition_retention_ms = if value.is_empty() { None } else { Some(duration(name, value)?) };
            }
            "snapshot_retention" => self.snapshot_retention_ms = duration(name, value)?,
            "drop_retention" => self.drop_retention_ms = duration(name, value)?,
            _ => return Err(Error::internal(format!("property {name} has no parser"))),
        }
        Ok(())
    }

    /// The Iceberg format version of a table of this kind: deletion vectors need 3, more readers know 2.
    pub fn format_version(&self, kind: TableKind) -> u8 {
        self.format_version.unwrap_or(match kind {
            TableKind::Log => 2,
            TableKind::PrimaryKey => 3,
        })
    }

    /// These of a table of this kind: refuses what only the other kind may set, and writes down the defaults that depend on
    /// the kind, so that a table keeps those it was made with.
    pub fn of_kind(mut self, kind: TableKind) -> Result<Properties> {
        self.format_version = Some(self.format_version(kind));
        let for_keys = [
            ("changelog", self.changelog != Changelog::Full),
            ("delete_behavior", self.delete_behavior != DeleteBehavior::Allow),
        ];
        match for_keys.into_iter().find(|(_, set)| *set && kind == TableKind::Log) {
            Some((name, _)) => Err(refuse(name, &self.value(name, kind), "is for tables with a PRIMARY KEY")),
            None => Ok(self),
        }
    }

    /// Each built property of a table of this kind.
    pub fn rows(&self, kind: TableKind) -> Vec<PropertyRow> {
        let built = DEFINITIONS.iter().filter(|definition| definition.built);
        let row = |definition: &'static Definition| PropertyRow {
            definition,
            value: self.value(definition.name, kind),
            default: match (definition.name, kind) {
                ("format_version", TableKind::PrimaryKey) => "3",
                _ => definition.default,
            },
        };
        built.map(row).collect()
    }

    fn value(&self, name: &str, kind: TableKind) -> String {
        match name {
            "buckets" => self.buckets.to_string(),
            "bucket_key" => self.bucket_key.clone().unwrap_or_default(),
            "partition_by" => self.partition_by.clone().unwrap_or_default(),
            "lake_enabled" => self.lake_enabled.to_string(),
            "lake_freshness" => duration_text(self.lake_freshness_ms),
            "format_version" => self.format_version(kind).to_string(),
            "hot_retention" => duration_text(self.hot_retention_ms),
            "hot_bytes_max" => self.hot_bytes_max.map_or_else(String::new, bytes_text),
            "changelog" => match self.changelog {
                Changelog::Full => "full".to_owned(),
                Changelog::Upsert => "upsert".to_owned(),
            },
            "delete_behavior" => match self.delete_behavior {
                DeleteBehavior::Allow => "allow".to_owned(),
                DeleteBehavior::Ignore => "ignore".to_owned(),
                DeleteBehavior::Refuse => "refuse".to_owned(),
            },
            "partition_retention" => self.partition_retention_ms.map_or_else(String::new, duration_text),
            "snapshot_retention" => duration_text(self.snapshot_retention_ms),
            "drop_retention" => duration_text(self.drop_retention_ms),
            _ => String::new(),
        }
    }
}

fn refuse(name: &str, value: &str, why: &str) -> Error {
    Error::new(Code::InvalidProperty, format!("property {name} {why}")).with_value(value)
}

/// Milliseconds of `500ms`, `30s`, `5m`, `1h`, `7d`.
fn duration(name: &str, value: &str) -> Result<u64> {
    let digits = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
    let unit_ms = match &value[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let amount = value[..digits].parse::<u64>().ok();
    match amount.and_then(|amount| amount.checked_mul(unit_ms)) {
        Some(milliseconds) if unit_ms > 0 && milliseconds <= DURATION_MS_MAX => Ok(milliseconds),
        _ => Err(refuse(name, value, "must be a duration").with_hint("as 500ms, 30s, 5m, 1h or 7d, at most 36500d")),
    }
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Bytes of `65536`, `512MiB`, `2GB`.
fn bytes(name: &str, value: &str) -> Result<u64> {
    let digits = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
    let named = BYTE_UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(value[digits..].trim_start()));
    let unit = if digits == value.len() { Some(1) } else { named.map(|(_, bytes)| *bytes) };
    let amount = value[..digits].parse::<u64>().ok();
    match amount.zip(unit).and_then(|(amount, unit)| amount.checked_mul(unit)) {
        Some(bytes) => Ok(bytes),
        None => Err(refuse(name, value, "must be a number of bytes").with_hint("as 65536, 512MiB or 2GB")),
    }
}

fn bytes_text(bytes: u64) -> String {
    let whole = BYTE_UNITS.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn duration_text(milliseconds: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.into_iter().find(|(_, unit_ms)| milliseconds > 0 && milliseconds.is_multiple_of(*unit_ms));
    match whole {
        Some((unit, unit_ms)) => format!("{}{unit}", milliseconds / unit_ms),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_written() {
        let written = [
            ("buckets", "4"),
            ("bucket_key", "id"),
            ("lake_freshness", "5m"),
            ("hot_retention", "1500ms"),
            ("hot_bytes_max", "512MiB"),
        ];
        let properties = Properties::parse(written).unwrap();
        let shown: BTreeMap<_, _> =
            properties.rows(TableKind::Log).into_iter().map(|row| (row.definition.name, row.value)).collect();
        for (name, value) in written {
            assert_eq!(shown[name], value);
        }
        assert_eq!(shown["lake_enabled"], "true");
    }

    #[test]
    fn defaults_are_what_the_list_says() {
        for row in [TableKind::Log, TableKind::PrimaryKey].into_iter().flat_map(|kind| Properties::default().rows(kind))
        {
            assert_eq!(row.value, row.default, "{}", row.definition.name);
        }
    }

    #[test]
    fn refusals_name_the_property() {
        for (name, value, code) in [
            ("bukets", "1", Code::InvalidProperty),
            ("buckets", "0", Code::InvalidProperty),
            ("buckets", "4097", Code::InvalidProperty),
            ("lake_freshness", "soon", Code::InvalidProperty),
            ("lake_freshness", "99999999999999999999d", Code::InvalidProperty),
            ("hot_retention", "36501d", Code::InvalidProperty),
            ("format_version", "1", Code::InvalidProperty),
            ("merge_engine", "first_row", Code::NotBuilt),
        ] {
            let error = Properties::parse([(name, value)]).unwrap_err();
            assert_eq!(error.code(), code, "{name}={value}");
            assert!(error.message().contains(name), "{error}");
        }
        assert!(Properties::parse([("buckets", "1"), ("buckets", "2")]).is_err());
    }
}
