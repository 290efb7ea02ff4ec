//! Holds what footer and page headers claim against the limits.
//!
//! The decoder allocates a page's claimed size before it decompresses, and checks the claim only afterwards; the codecs
//! that are let through stop at the claim. So the sum of the claims bounds what decompression can take. Inside lists a few
//! bytes of levels claim millions of values, in one row if they like: of those the counts of values are bounded too.

use bytes::Bytes;
use parquet::basic::{Compression, Type};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use thermocline_schemas::{Code, Error, Result};

use super::thrift::{Cursor, I32, STRUCT};
use super::{DecodeLimits, broken, too_large};

const UNCOMPRESSED_BYTES: i16 = 2;
const COMPRESSED_BYTES: i16 = 3;
const DATA_PAGE: i16 = 5;
const DATA_PAGE_V2: i16 = 8;
/// Inside each of the two.
const VALUES: i16 = 1;

pub(super) fn check(bytes: &Bytes, metadata: &ParquetMetaData, limits: &DecodeLimits) -> Result<()> {
    let mut rows = 0u64;
    let mut claimed = 0u64;
    let mut in_pages = 0u64;
    let mut repeated = 0u64;
    for row_group in metadata.row_groups() {
        rows = rows.saturating_add(whole(row_group.num_rows())?);
        for column in row_group.columns() {
            let is_repeated = column.column_descr().max_rep_level() > 0;
            if column.num_values() != row_group.num_rows() && !is_repeated {
                return Err(broken("a column has another count of values than its row group has rows"));
            }
            if is_repeated {
                // Its values, and the levels that say which row each is of.
                let each = value_bytes(column) + 2 * size_of::<i16>() as u64;
                repeated = repeated.saturating_add(whole(column.num_values())?.saturating_mul(each));
            }
            claimed = claimed.saturating_add(whole(column.uncompressed_size())?);
        }
    }
    if rows != whole(metadata.file_metadata().num_rows())? {
        return Err(broken("its row groups have other rows than it says"));
    }
    if rows > limits.rows_max {
        return Err(too_large(format!("{rows} rows are more than {}", limits.rows_max)));
    }
    let within = |size: u64| {
        if size > limits.bytes_max {
            return Err(too_large(format!("{size} bytes decompressed are more than {}", limits.bytes_max)));
        }
        Ok(())
    };
    within(claimed)?;
    within(repeated)?;
    for column in metadata.row_groups().iter().flat_map(|row_group| row_group.columns()) {
        in_pages = in_pages.saturating_add(page_bytes(bytes, column)?);
        within(in_pages)?;
    }
    Ok(())
}

/// What the pages of a column chunk say they take when decompressed.
fn page_bytes(bytes: &Bytes, column: &ColumnChunkMetaData) -> Result<u64> {
    match column.compression() {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) | Compression::LZ4_RAW => {}
        other => {
            return Err(Error::new(Code::UnsupportedMediaType, format!("Parquet compressed with {other}"))
                .with_column(column.column_path().string())
                .with_hint("use zstd, snappy, lz4_raw or none"));
        }
    }
    let data = whole(column.data_page_offset())?;
    let start = match column.dictionary_page_offset() {
        // A column without values may have a dictionary and no page of data: no page begins at 0.
        Some(dictionary) if dictionary > 0 && data == 0 => whole(dictionary)?,
        Some(dictionary) if dictionary > 0 => data.min(whole(dictionary)?),
        _ => data,
    };
    let end = start.checked_add(whole(column.compressed_size())?).filter(|end| *end <= bytes.len() as u64);
    let end = end.ok_or_else(|| broken("a column lies outside the file"))?;
    let mut rest = &bytes[start as usize..end as usize];
    let mut total = 0u64;
    let mut values = 0u64;
    while !rest.is_empty() {
        let page = page(rest).ok_or_else(|| broken("a page header cannot be read"))?;
        total = total.saturating_add(page.uncompressed);
        values = values.saturating_add(page.values);
        rest = &rest[page.length..];
    }
    if values > whole(column.num_values())? {
        return Err(broken("the pages of a column have more values than it says"));
    }
    Ok(total)
}

/// What a value takes when decoded, without what a view points to.
fn value_bytes(column: &ColumnChunkMetaData) -> u64 {
    match column.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 | Type::BYTE_ARRAY => 16,
        Type::FIXED_LEN_BYTE_ARRAY => column.column_descr().type_length().max(16) as u64,
    }
}

struct Page {
    uncompressed: u64,
    /// None in a dictionary, of which each is of a page that counts it.
    values: u64,
    /// With its header.
    length: usize,
}

/// What the page at the front of `bytes` claims.
fn page(bytes: &[u8]) -> Option<Page> {
    let (mut uncompressed, mut compressed, mut values) = (None, None, 0);
    let mut cursor = Cursor::new(bytes);
    cursor.structure(|cursor, id, kind| {
        match (id, kind) {
            (UNCOMPRESSED_BYTES, I32) => uncompressed = Some(cursor.i32()?),
            (COMPRESSED_BYTES, I32) => compressed = Some(cursor.i32()?),
            (DATA_PAGE | DATA_PAGE_V2, STRUCT) => cursor.structure(|cursor, id, kind| {
                if (id, kind) != (VALUES, I32) {
                    return Some(false);
                }
                values = u64::try_from(cursor.i32()?).ok()?;
                Some(true)
            })?,
            _ => return Some(false),
        }
        Some(true)
    })?;
    let length = cursor.place().checked_add(usize::try_from(compressed?).ok()?)?;
    let uncompressed = u64::try_from(uncompressed?).ok()?;
    (length <= bytes.len()).then_some(Page { uncompressed, values, length })
}

fn whole(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| broken("a count in it is negative"))
}
