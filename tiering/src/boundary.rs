//! The boundary of one table: which lake version readers use, and up to which offsets it holds their rows.
//!
//! Always: a boundary is one immutable value behind one pointer; it only moves forward; what is below its offsets is in its
//! snapshot, what is not is hot. A table whose lake has not been opened yet has the empty boundary, which is right as long
//! as its hot tier still starts at offset 0.

use std::sync::{Arc, PoisonError, RwLock};

use thermocline_engine::Table;
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{Code, Error, Offset, PartitionBucket, Result};

use crate::lake::{LakeTable, LakeVersion, Offsets};

/// What is in the lake, as readers see it.
#[derive(Debug)]
pub struct Boundary {
    /// None before anything was tiered.
    pub lake: Option<(Arc<LakeTable>, Arc<LakeVersion>)>,
    /// Raised by each publication.
    pub generation: u64,
}

impl Boundary {
    /// The first offset that is not in the lake.
    pub fn tiered_end(&self, bucket: PartitionBucket) -> Offset {
        self.lake.as_ref().map_or(Offset::ZERO, |(_, version)| version.offsets.get(bucket))
    }

    pub fn offsets(&self) -> Offsets {
        self.lake.as_ref().map(|(_, version)| version.offsets.clone()).unwrap_or_default()
    }
}

/// The pointer to a table's boundary.
#[derive(Debug)]
pub struct Published(RwLock<Arc<Boundary>>);

impl Default for Published {
    fn default() -> Published {
        Published(RwLock::new(Arc::new(Boundary { lake: None, generation: 0 })))
    }
}

impl Published {
    pub fn load(&self) -> Arc<Boundary> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `boundary` is still the one that new readers get.
    pub fn is(&self, boundary: &Arc<Boundary>) -> bool {
        Arc::ptr_eq(&*self.0.read().unwrap_or_else(PoisonError::into_inner), boundary)
    }

    /// Only to plant a defect.
    pub fn publish_unchecked(&self, lake: &Arc<LakeTable>, version: LakeVersion) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(Boundary { lake: Some((lake.clone(), Arc::new(version))), generation });
    }

    /// Publishes a version, unless a newer one is. Refuses one that holds rows which the journal does not know: then the
    /// lake and the data directory do not belong together.
    pub fn publish(&self, table: &Table, lake: &Arc<LakeTable>, version: Arc<LakeVersion>) -> Result<()> {
        // A version that others changed says less, or more, than its offsets: readers must not see it.
        version.check_history()?;
        // Of a refused bucket nobody knows where it ends.
        let ends = table.ends();
        for (bucket, tiered) in version.offsets.iter() {
            if ends.ends.get(&bucket).is_some_and(|end| tiered > *end) {
                return Err(Error::new(
                    Code::LakeConflict,
                    format!(
                        "the lake of table {} has bucket {bucket} up to offset {tiered}, the journal only to {}",
                        table.descriptor().name,
                        ends.end(bucket)
                    ),
                )
                .with_hint("the data directory is older than the warehouse: was it restored from a copy?"));
            }
        }
        if version.rows_gone > ends.starts.rows_gone() {
            return Err(Error::new(
                Code::LakeConflict,
                format!("rows of table {} were taken away of which the journal does not know", table.descriptor().name),
            )
            .with_hint("the data directory is older than the warehouse: was it restored from a copy?"));
        }
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let newer = current.lake.as_ref().is_none_or(|(_, known)| version.version > known.version);
        if newer {
            let generation = current.generation + 1;
            let version = match &current.lake {
                Some((_, known)) if faults::planted(Defect::OffsetsOfBefore) => {
                    Arc::new(LakeVersion { offsets: known.offsets.clone(), ..(*version).clone() })
                }
                _ => version,
            };
            *current = Arc::new(Boundary { lake: Some((lake.clone(), version)), generation });
        }
        Ok(())
    }
}
