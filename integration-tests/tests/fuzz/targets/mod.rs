//! What is fuzzed.

mod archive;
mod compressed;
mod ddl;
mod engine;
mod journal;
mod lake;
mod rows;
mod sql;
mod token;
mod uploads;

use thermocline_schemas::text::JsonShape;
use thermocline_server::uploads::UploadFormat;

use crate::driver::Target;
use uploads::Upload;

type Make = fn() -> Box<dyn Target>;

/// Each by the name of its corpus.
pub const ALL: [(&str, Make); 14] = [
    ("journal", || Box::new(journal::JournalFile)),
    ("data_directory", || Box::new(engine::DataDirectory::with_rows())),
    ("catalog", || Box::new(engine::DataDirectory::without_rows())),
    ("ndjson", || Box::new(Upload::new(UploadFormat::Json(JsonShape::Lines)))),
    ("json", || Box::new(Upload::new(UploadFormat::Json(JsonShape::Array)))),
    ("csv", || Box::new(Upload::new(UploadFormat::Csv))),
    ("arrow", || Box::new(Upload::new(UploadFormat::Arrow))),
    ("parquet", || Box::new(Upload::new(UploadFormat::Parquet))),
    ("compressed", || Box::new(compressed::Compressed::new())),
    ("sql", || Box::new(sql::SqlText::new())),
    ("ddl", || Box::new(ddl::Ddl::new())),
    ("token", || Box::new(token::ResumeToken)),
    ("lake_metadata", || Box::new(lake::Lake::new(lake::Part::Metadata))),
    ("lake_files", || Box::new(lake::Lake::new(lake::Part::Files))),
];
