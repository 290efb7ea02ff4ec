//! How other engines read the demo's lake: by its path alone.

use std::path::Path;

use serde_json::Value;

use crate::cli::{Failure, Outcome, output};

/// Prints the table's place and the lines that read it.
pub fn show(described: &Value) -> Outcome {
    let location = described["lake"]["location"].as_str();
    let location = location.ok_or_else(|| Failure::new("the table has no lake after a round"))?;
    let directory = location.strip_prefix("file://").unwrap_or(location);
    let metadata = Path::new(directory).join("metadata");
    let version = std::fs::read_to_string(metadata.join("version-hint.text"))
        .map_err(|error| Failure::new(format!("cannot read the lake's version at {}: {error}", metadata.display())))?;
    let metadata_file = format!("{directory}/metadata/v{}.metadata.json", version.trim());
    let warehouse = location.trim_end_matches("/public/flights");
    output::line(format_args!(
        "\
It is at {directory}

DuckDB:
  duckdb -c \"INSTALL iceberg; LOAD iceberg; SELECT count(*) FROM iceberg_scan('{directory}');\"

PyIceberg:
  python3 -c \"from pyiceberg.table import StaticTable; \\
    print(StaticTable.from_metadata('{metadata_file}').scan().to_arrow().num_rows)\"

Spark:
  spark-sql --packages org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.2 \\
    --conf spark.sql.catalog.lake=org.apache.iceberg.spark.SparkCatalog \\
    --conf spark.sql.catalog.lake.type=hadoop \\
    --conf spark.sql.catalog.lake.warehouse={warehouse} \\
    -e \"SELECT count(*) FROM lake.public.flights\""
    ));
    Ok(())
}
