//! What type names mean inside queries: as in DDL, so TIMESTAMP has microseconds.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

#[derive(Debug)]
pub(super) struct OurTypes;

impl TypePlanner for OurTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let zone = match sql_type {
            SqlType::Timestamp(None | Some(0..=6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => None,
            SqlType::Datetime(None | Some(0..=6)) => None,
            SqlType::Timestamp(None | Some(0..=6), _) => Some("UTC".into()),
            _ => return Ok(None),
        };
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, zone);
        Ok(Some(Arc::new(Field::new("", timestamp, true))))
    }
}
