//! How a table of ours looks as an Iceberg table: schema, partition spec, sort order, properties.
//!
//! Always: Iceberg's field ids are the ids of [`TableSchema`]. Each data file holds rows of one bucket of one partition. The
//! partition values of a file are those of the table's own partition, by Iceberg's transforms, and last its bucket's number:
//! - one bucket: none;
//! - hash buckets over a column without nulls: `bucket[n](column)`, whose values are our bucket numbers by construction;
//! - else `identity(__bucket)`. Round robin knows no better, and a nullable bucket key must not use Iceberg's transform:
//!   it maps null to a null partition while our null rows live in bucket 0, so engines would skip them for `IS NULL`.
//!
//! A primary key is the schema's identifier fields.
//!
//! Foreign changes of schema or spec that our files would not fit are found by [`LakeLayout::check`]. A table that was
//! altered has several versions of its columns: the lake has one of ours, and gets the newest before the next rows (see
//! `evolve`). What finds a row's bucket never changes.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use iceberg::TableCreation;
use iceberg::spec::{
    FormatVersion, ListType, Literal, MapType, NestedField, NestedFieldRef, NullOrder, PartitionField,
    PrimitiveLiteral, PrimitiveType, Schema, SortDirection, SortField, SortOrder, Struct, StructType, TableMetadata,
    TableMetadataBuilder, Transform, Type, UnboundPartitionSpec, UnboundPartitionSpecBuilder,
};
use thermocline_engine::faults::{self, Defect};
use thermocline_schemas::{
    BucketId, Bucketing, Code, Error, FIELD_ID_KEY, FieldId, PartitionBucket, PartitionId, PartitionValue,
    PartitionValues, Result, SystemColumn, TableDescriptor, Transform as Made, is_uuid,
};

use super::{LakeVersion, properties};

/// The sort order that our data files are written in: `__offset` ascending.
pub(super) const SORT_ORDER_ID: i32 = 1;

/// What a table's Iceberg side must look like.
#[derive(Clone, Debug)]
pub(super) struct LakeLayout {
    /// One for each version of the columns, oldest first. The columns of the primary key are its identifier fields.
    schemas: Vec<Schema>,
    /// The newest columns of data files.
    arrow: SchemaRef,
    is_keyed: bool,
    spec: Vec<SpecField>,
    /// Whether the last field of the spec is the bucket.
    has_buckets: bool,
    /// The table's partitions; one without values where it has none of its own.
    partitions: Vec<Partition>,
    /// Which partition has these values.
    partition_ids: HashMap<Vec<Option<Literal>>, PartitionId>,
    format_version: FormatVersion,
    offset_id: FieldId,
    snapshot_retention_ms: u64,
}

/// A field of the partition spec.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SpecField {
    source: FieldId,
    name: String,
    transform: Transform,
}

#[derive(Clone, Debug)]
struct Partition {
    values: Vec<Option<Literal>>,
    /// Where its files lie, for people who list them; two may share one.
    directory: String,
}

impl LakeLayout {
    pub(super) fn new(descriptor: &TableDescriptor) -> Result<LakeLayout> {
        let schemas = descriptor.schemas().map(|version| {
            let lake = version.lake_arrow();
            let fields =
                lake.fields().iter().map(|field| Ok(iceberg_field(field)?.into())).collect::<Result<Vec<_>>>()?;
            Schema::builder()
                .with_fields(fields)
                .with_identifier_field_ids(descriptor.key.iter().map(|id| id.0))
                .build()
                .map_err(|error| Error::internal("the table has no Iceberg schema").with_source(error))
        });
        let schemas = schemas.collect::<Result<_>>()?;
        let system_id = |column| {
            let missing = || Error::internal(format!("{column:?} has no field id in the lake"));
            descriptor.schema.system_id(column).ok_or_else(missing)
        };
        let format_version = match descriptor.properties.format_version(descriptor.kind) {
            2 => FormatVersion::V2,
            3 => FormatVersion::V3,
            other => return Err(Error::internal(format!("format version {other}"))),
        };
        let bucket_id = system_id(SystemColumn::Bucket)?;
        let mut spec: Vec<_> = descriptor.partitioning.iter().map(SpecField::of_partition).collect();
        let bucket = SpecField::of_bucket(descriptor, bucket_id);
        let has_buckets = bucket.is_some();
        spec.extend(bucket);
        let partitions = partitions(descriptor)?;
        let ids = partitions.iter().enumerate();
        let partition_ids = ids.map(|(id, own)| (own.values.clone(), PartitionId(id as u32))).collect();
        Ok(LakeLayout {
            spec,
            has_buckets,
            partitions,
            partition_ids,
            schemas,
            arrow: descriptor.schema.lake_arrow(),
            is_keyed: descriptor.is_keyed(),
            format_version,
            offset_id: system_id(SystemColumn::Offset)?,
            snapshot_retention_ms: descriptor.properties.snapshot_retention_ms,
        })
    }

    /// How many versions of the columns there are.
    pub(super) fn version(&self) -> usize {
        self.schemas.len()
    }

    /// The newest columns of data files: the user's, then [`SystemColumn::LAKE`].
    pub(super) fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// The format version, as the table's property spells it.
    pub(super) fn format(&self) -> u8 {
        self.format_version as u8
    }

    pub(super) fn snapshot_retention_ms(&self) -> u64 {
        self.snapshot_retention_ms
    }

    /// Whether rows have a key, so that later ones end earlier ones.
    pub(super) fn is_keyed(&self) -> bool {
        self.is_keyed
    }

    pub(super) fn offset_id(&self) -> FieldId {
        self.offset_id
    }

    /// Metadata of the table before its first snapshot, in the first version of its columns: ids of later ones have gaps,
    /// which a new table cannot have.
    pub(super) fn first_metadata(
        &self,
        name: &str,
        location: &str,
        properties: HashMap<String, String>,
    ) -> Result<TableMetadata> {
        let fault = |error: iceberg::Error| Error::internal(format!("table metadata of {name}")).with_source(error);
        let first = self.schemas.first().ok_or_else(|| Error::internal("a table without columns"))?;
        let sort_order = SortOrder::builder()
            .with_order_id(i64::from(SORT_ORDER_ID))
            .with_sort_field(SortField {
                source_id: self.offset_id.0,
                transform: Transform::Identity,
                direction: SortDirection::Ascending,
                null_order: NullOrder::First,
            })
            .build(first)
            .map_err(fault)?;
        let creation = TableCreation::builder()
            .name(name.to_owned())
            .location(location.to_owned())
            .schema(first.clone())
            .partition_spec_opt(self.unbound_spec().map_err(fault)?)
            .sort_order(sort_order)
            .properties(properties)
            .format_version(self.format_version)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation).and_then(TableMetadataBuilder::build);
        let metadata = built.map_err(fault)?.metadata;
        // The builder gives fields new ids in their order. Ours must come out as they went in: files are read by id.
        self.check(&metadata)?;
        Ok(metadata)
    }

    /// Whether files written by this layout fit the table as it is.
    pub(super) fn check(&self, metadata: &TableMetadata) -> Result<()> {
        let differs = |what: String| {
            Error::new(Code::LakeConflict, format!("the lake table at {} {what}", metadata.location()))
                .with_hint("somebody else changed it, or its files were mixed up")
        };
        let current = metadata.current_schema();
        let missing = |schema: &Schema| {
            let has = |field: &&NestedFieldRef| current.field_by_id(field.id).is_some_and(|found| alike(found, field));
            schema.as_struct().fields().iter().find(|field| !has(field)).cloned()
        };
        let newest = self.schemas.last().ok_or_else(|| Error::internal("a table without columns"))?;
        if let Some(field) = missing(newest)
            && self.schemas.iter().all(|schema| missing(schema).is_some())
        {
            return Err(differs(format!("has no column {} with field id {} as written", field.name, field.id)));
        }
        let key = |schema: &Schema| schema.identifier_field_ids().collect::<BTreeSet<_>>();
        let (found, ours) = (key(current), key(newest));
        if self.is_keyed && found != ours {
            return Err(differs(format!("has the identifier fields {found:?} where the primary key is {ours:?}")));
        }
        let spec = metadata.default_partition_spec();
        let alike = |(own, found): (&SpecField, &PartitionField)| {
            found.source_id == own.source.0 && found.transform == own.transform
        };
        let same = spec.fields().len() == self.spec.len() && self.spec.iter().zip(spec.fields()).all(alike);
        if !same {
            return Err(differs(format!("is partitioned otherwise than the table: {:?}", spec.fields())));
        }
        Ok(())
    }

    /// Whether this layout says of a table what `other` says, or something later.
    pub(super) fn is_as_new_as(&self, other: &LakeLayout) -> bool {
        (self.schemas.len(), self.format_version) >= (other.schemas.len(), other.format_version)
            && self.partitions.len() >= other.partitions.len()
    }

    /// Whether it knows all partitions that this version of the table does.
    pub(super) fn knows_partitions(&self, descriptor: &TableDescriptor) -> bool {
        self.partitions.len() >= descriptor.partitions.len()
    }

    /// Whether the table has the newest format and columns.
    pub(super) fn has_newest(&self, metadata: &TableMetadata) -> bool {
        metadata.format_version() >= self.format_version && self.has_columns(metadata)
    }

    /// Whether the table has the newest columns, and perhaps others' beside them.
    fn has_columns(&self, metadata: &TableMetadata) -> bool {
        self.schemas.last().is_some_and(|newest| self.is_version(metadata.current_schema(), newest))
    }

    /// Whether these are the columns of that version, and perhaps others' beside them.
    fn is_version(&self, found: &Schema, version: &Schema) -> bool {
        let ours = found.as_struct().fields().iter().filter(|field| self.is_ours(field));
        let wanted = version.as_struct().fields();
        ours.clone().count() == wanted.len() && ours.zip(wanted).all(|(found, wanted)| alike(found, wanted))
    }

    /// The newest version that has these columns, counted from 0.
    pub(super) fn place_of(&self, found: &Schema) -> Option<usize> {
        self.schemas.iter().rposition(|version| self.is_version(found, version))
    }

    /// Whether some version has this very column.
    fn is_ours(&self, field: &NestedField) -> bool {
        self.schemas.iter().any(|schema| schema.field_by_id(field.id).is_some_and(|own| alike(own, field)))
    }

    /// The table's metadata with the newest format and columns; none if it has them.
    pub(super) fn evolved(&self, base: &LakeVersion) -> Result<Option<TableMetadata>> {
        if self.has_newest(&base.metadata) {
            return Ok(None);
        }
        let fault = |error| Error::internal("a new version of table metadata").with_source(error);
        let mut builder = (*base.metadata).clone().into_builder(Some(base.metadata_url.clone()));
        if base.metadata.format_version() < self.format_version {
            builder = builder.upgrade_format_version(self.format_version).map_err(fault)?;
        }
        if !self.has_columns(&base.metadata) {
            let newest = self.columns_for(base)?;
            builder = builder.add_schema(newest).map_err(fault)?;
            builder = builder.set_current_schema(TableMetadataBuilder::LAST_ADDED).map_err(fault)?;
        }
        Ok(Some(builder.build().map_err(fault)?.metadata))
    }

    /// The newest columns, if they may take the place of those that the table has.
    fn columns_for(&self, base: &LakeVersion) -> Result<Schema> {
        let newest = self.schemas.last().ok_or_else(|| Error::internal("a table without columns"))?;
        // One that is there would go; the id of one that was may be that of a column of ours, and there may be files with it.
        let there = base.metadata.current_schema().as_struct().fields().iter();
        let were = base.metadata.schemas_iter().flat_map(|schema| schema.as_struct().fields());
        let were = were.filter(|field| newest.field_by_id(field.id).is_some());
        if let Some(other) = there.chain(were).find(|field| !self.is_ours(field)) {
            let place = base.metadata.location();
            let found = format!("the lake table at {place} has or had a column {} that is not ours", other.name);
            return Err(Error::new(Code::LakeConflict, format!("{found}: its columns cannot follow the table's"))
                .with_hint("drop it where it was added; if it is gone there, DROP and ADD the column of ours with its field id"));
        }
        Ok(newest.clone())
    }

    fn partition_of(&self, bucket: PartitionBucket) -> Result<&Partition> {
        let unknown = || Error::internal(format!("the lake has not heard of partition {}", bucket.partition));
        self.partitions.get(bucket.partition.0 as usize).ok_or_else(unknown)
    }

    /// The partition values of files of a bucket.
    pub(super) fn partition(&self, bucket: PartitionBucket) -> Result<Struct> {
        let number = self.has_buckets.then(|| Some(Literal::int(bucket.bucket.0 as i32)));
        let bucket = if faults::planted(Defect::FilesOfOnePartition) { PartitionBucket::default() } else { bucket };
        Ok(self.partition_of(bucket)?.values.iter().cloned().chain(number).collect())
    }

    /// Where files of a bucket lie below `data/`; empty if the table is not partitioned.
    pub(super) fn partition_directory(&self, bucket: PartitionBucket) -> Result<String> {
        let number = self.spec.last().filter(|_| self.has_buckets);
        let number = number.map(|field| format!("{}={}/", field.name, bucket.bucket)).unwrap_or_default();
        Ok(format!("{}{number}", self.partition_of(bucket)?.directory))
    }

    /// The bucket whose rows a file with these partition values has; none if it is none of ours.
    pub(super) fn bucket_of(&self, partition: &Struct) -> Option<PartitionBucket> {
        let (values, bucket) = match (self.has_buckets, partition.fields()) {
            (false, values) => (values, BucketId(0)),
            (true, [values @ .., Some(Literal::Primitive(PrimitiveLiteral::Int(bucket)))]) => {
                (values, BucketId(u32::try_from(*bucket).ok()?))
            }
            (true, _) => return None,
        };
        Some(PartitionBucket { partition: *self.partition_ids.get(values)?, bucket })
    }

    fn unbound_spec(&self) -> iceberg::Result<Option<UnboundPartitionSpec>> {
        if self.spec.is_empty() {
            return Ok(None);
        }
        let spec = UnboundPartitionSpec::builder().with_spec_id(0);
        let add = |spec: UnboundPartitionSpecBuilder, field: &SpecField| {
            spec.add_partition_field(field.source.0, &field.name, field.transform)
        };
        Ok(Some(self.spec.iter().try_fold(spec, add)?.build()))
    }
}

impl SpecField {
    fn of_partition(field: &thermocline_schemas::PartitionField) -> SpecField {
        let transform = match field.transform {
            Made::Identity => Transform::Identity,
            Made::Year => Transform::Year,
            Made::Month => Transform::Month,
            Made::Day => Transform::Day,
            Made::Hour => Transform::Hour,
            Made::Bucket(buckets) => Transform::Bucket(buckets),
            Made::Truncate(width) => Transform::Truncate(width),
        };
        SpecField { source: field.source, name: field.name.clone(), transform }
    }

    /// The field that says the bucket, if a table has several.
    fn of_bucket(descriptor: &TableDescriptor, bucket_id: FieldId) -> Option<SpecField> {
        let by_number = || {
            // An identity partition field carries the name of its column, as in Spark.
            let name = SystemColumn::Bucket.name().to_owned();
            SpecField { source: bucket_id, name, transform: Transform::Identity }
        };
        match descriptor.bucketing {
            bucketing if bucketing.buckets() == 1 => None,
            Bucketing::RoundRobin { .. } => Some(by_number()),
            Bucketing::Hash { buckets, column } => {
                let of_column = |name| SpecField { source: column, name, transform: Transform::Bucket(buckets) };
                Some(descriptor.bucket_partition_name().map_or_else(by_number, of_column))
            }
        }
    }
}

/// A directory's name holds no more of a value than this.
const DIRECTORY_CHARACTERS_MAX: usize = 100;

/// The partitions of a table as the lake spells them.
fn partitions(descriptor: &TableDescriptor) -> Result<Vec<Partition>> {
    if !descriptor.is_partitioned() {
        return Ok(vec![Partition { values: Vec::new(), directory: String::new() }]);
    }
    let is_long = descriptor.partitioning.iter().map(|field| {
        let column = descriptor.schema.columns().iter().find(|column| column.id == field.source);
        let column = column.ok_or_else(|| Error::internal("a partition of a column that is not there"))?;
        let lake = column.column_type.lake_arrow();
        let is_wide = lake.primitive_width() == Some(8);
        Ok(is_wide && matches!(field.transform, Made::Identity | Made::Truncate(_)))
    });
    let is_long = is_long.collect::<Result<Vec<_>>>()?;
    let literal = |value: &PartitionValue, is_long: bool| match value {
        PartitionValue::Boolean(value) => Literal::bool(*value),
        PartitionValue::Integer(value) if is_long => Literal::long(*value),
        PartitionValue::Integer(value) => Literal::int(*value as i32),
        PartitionValue::Decimal(value) => Literal::decimal(*value),
        PartitionValue::Text(value) => Literal::string(value),
    };
    let partition = |(values, id): (&PartitionValues, u32)| {
        let values = values.iter().zip(&is_long);
        let values = values.map(|(value, is_long)| value.as_ref().map(|value| literal(value, *is_long))).collect();
        let path = descriptor.partition_path(PartitionId(id)).unwrap_or_default();
        // Percent signs are escaped once more on their way to a store.
        let part = |part: &str| part.chars().take(DIRECTORY_CHARACTERS_MAX).collect::<String>().replace('%', "_") + "/";
        Partition { values, directory: path.split('/').map(part).collect() }
    };
    Ok(descriptor.partitions.iter().zip(0..).map(partition).collect())
}

fn alike(one: &NestedField, other: &NestedField) -> bool {
    (one.id, &one.name, &one.field_type, one.required) == (other.id, &other.name, &other.field_type, other.required)
}

/// The Iceberg type of a column of a data file that does not nest.
pub(super) fn iceberg_type(field: &Field) -> Result<PrimitiveType> {
    Ok(match field.data_type() {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int32 => PrimitiveType::Int,
        DataType::Int64 => PrimitiveType::Long,
        DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            PrimitiveType::Decimal { precision: u32::from(*precision), scale: *scale as u32 }
        }
        DataType::Date32 => PrimitiveType::Date,
        DataType::Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Timestamp(TimeUnit::Nanosecond, None) => PrimitiveType::TimestampNs,
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => PrimitiveType::TimestamptzNs,
        DataType::Time64(TimeUnit::Microsecond) => PrimitiveType::Time,
        DataType::FixedSizeBinary(_) if is_uuid(field) => PrimitiveType::Uuid,
        DataType::FixedSizeBinary(bytes) => PrimitiveType::Fixed(*bytes as u64),
        DataType::Utf8 => PrimitiveType::String,
        DataType::Binary => PrimitiveType::Binary,
        other => return Err(Error::internal(format!("lake column {} has type {other}", field.name()))),
    })
}

fn iceberg_field(field: &Field) -> Result<NestedField> {
    let id = field.metadata().get(FIELD_ID_KEY).and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| Error::internal(format!("lake column {} has no field id", field.name())))?;
    let field_type = match field.data_type() {
        DataType::List(item) => Type::List(ListType::new(inner_field(item, "element")?)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(sides) if sides.len() == 2 => {
                Type::Map(MapType::new(inner_field(&sides[0], "key")?, inner_field(&sides[1], "value")?))
            }
            other => return Err(Error::internal(format!("lake column {} is a map of {other}", field.name()))),
        },
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| Ok(iceberg_field(field)?.into()));
            Type::Struct(StructType::new(fields.collect::<Result<_>>()?))
        }
        _ => Type::Primitive(iceberg_type(field)?),
    };
    let new = if field.is_nullable() { NestedField::optional } else { NestedField::required };
    Ok(new(id, field.name(), field_type))
}

/// What stands inside a list or a map, which Iceberg calls by a name of its own.
fn inner_field(field: &Field, name: &str) -> Result<NestedFieldRef> {
    Ok(NestedField { name: name.to_owned(), ..iceberg_field(field)? }.into())
}

/// The properties of a new table, but for those of its identity.
pub(super) fn first_properties() -> HashMap<String, String> {
    let mut all: HashMap<String, String> = [
        ("write.format.default", "parquet"),
        ("write.parquet.compression-codec", "zstd"),
        ("write.parquet.compression-level", "1"),
        // A compressed metadata file has another name: two commits of one version could both succeed.
        ("write.metadata.compression-codec", "none"),
        ("write.metadata.previous-versions-max", "100"),
        // Version files are kept for a day: an attempt that slept must find its version taken.
        ("write.metadata.delete-after-commit.enabled", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    // Engines that rewrite wide tables keep bounds of the first hundred columns only; ours come last and are needed.
    for column in SystemColumn::LAKE {
        all.insert(format!("write.metadata.metrics.column.{}", column.name()), "full".to_owned());
    }
    all.insert(properties::OFFSETS.to_owned(), super::Offsets::default().to_json());
    all
}
