//! Which data file a scan was reading, so that a failure can say whether that file is damaged.
//!
//! A scan fails for what is in a file and for what the query computes over it (a division by zero in a filter that the
//! scan applies), and its error or panic does not tell which. So after a failure the file that was open is read whole,
//! without the query: if that fails, the file is to blame and named, otherwise the failure stays as it was.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::path::Path;
use thermocline_schemas::TableSchema;
use thermocline_tiering::LakePart;

use crate::errors::is_ours;

/// The failure is told as it is when the file cannot be read in this time.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);

/// Opens the files of one scan and knows, per partition, which one it opened last. A partition reads one at a time.
#[derive(Debug)]
pub(super) struct DataFiles {
    inner: CachedParquetFileReaderFactory,
    lake: LakePart,
    schema: TableSchema,
    last: Mutex<HashMap<usize, Path>>,
}

impl DataFiles {
    pub(super) fn new(inner: CachedParquetFileReaderFactory, lake: &LakePart, schema: &TableSchema) -> DataFiles {
        DataFiles { inner, lake: lake.clone(), schema: schema.clone(), last: Mutex::default() }
    }

    /// What to say of a failure of a partition.
    pub(super) async fn explain(&self, partition: usize, failure: DataFusionError) -> DataFusionError {
        let Some(file) = self.last(partition).filter(|_| !is_ours(&failure)) else { return failure };
        match tokio::time::timeout(CHECK_TIME_MAX, self.lake.check_file(&file, &self.schema)).await {
            Ok(Err(damaged)) => DataFusionError::External(Box::new(damaged)),
            Ok(Ok(())) | Err(_) => failure,
        }
    }

    fn last(&self, partition: usize) -> Option<Path> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }
}

impl ParquetFileReaderFactory for DataFiles {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(partition, file.object_meta.location.clone());
        drop(last);
        self.inner.create_reader(partition, file, metadata_size_hint, metrics)
    }
}
