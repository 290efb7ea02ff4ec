//! What type names mean inside queries: as in DDL, so TIMESTAMP has microseconds.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};
use thermocline_schemas::ColumnType;

use crate::front::column_type;

#[derive(Debug)]
pub(super) struct OurTypes;

impl TypePlanner for OurTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let zone = |zone: &TimezoneInfo| match zone {
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => None,
            _ => Some("UTC".into()),
        };
        let data_type = match sql_type {
            SqlType::Uuid => return Ok(Some(Arc::new(ColumnType::Uuid.field("", ColumnType::arrow, true)))),
            SqlType::Timestamp(None | Some(0..=6), of) => DataType::Timestamp(TimeUnit::Microsecond, zone(of)),
            SqlType::Timestamp(Some(7..=9), of) => DataType::Timestamp(TimeUnit::Nanosecond, zone(of)),
            SqlType::Datetime(None | Some(0..=6)) => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::Time(None | Some(0..=6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                DataType::Time64(TimeUnit::Microsecond)
            }
            SqlType::Array(_) => match column_type(sql_type) {
                Ok(list) => list.arrow(),
                Err(error) => return Err(DataFusionError::External(Box::new(error))),
            },
            // Names that the planner does not know: integers without a sign, bytes of one length.
            SqlType::Custom(..) | SqlType::UTinyInt | SqlType::USmallInt => match column_type(sql_type) {
                Ok(known) => known.arrow(),
                Err(_) => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
