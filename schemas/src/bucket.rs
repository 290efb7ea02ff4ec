//! Which bucket a row belongs to: Iceberg's `bucket[n]` transform, so that hot buckets and lake partitions agree.
//!
//! The hash is 32-bit Murmur3 (x86 variant, seed 0) over the encodings of the Iceberg specification's appendix B:
//! integers, dates and times as 8 little-endian bytes, decimals as their shortest big-endian two's complement, text as
//! UTF-8. The unit test has the values that the specification gives.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type,
};

use crate::{Error, Result};

/// The bucket of a hash among `buckets`.
pub fn bucket_of_hash(hash: i32, buckets: u32) -> u32 {
    (hash as u32 & i32::MAX as u32) % buckets
}

/// Murmur3, 32 bits, seed 0.
pub fn iceberg_hash(bytes: &[u8]) -> i32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let scramble = |word: u32| word.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = words.iter().fold(0u32, |hash, word| {
        (hash ^ scramble(u32::from_le_bytes(*word))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        hash ^= scramble(u32::from_le_bytes(word));
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    (hash ^ (hash >> 16)) as i32
}

/// The hash of each row of a bucket key column; null hashes to 0, which puts it into bucket 0.
pub fn hash_column(column: &ArrayRef) -> Result<Vec<i32>> {
    macro_rules! integers {
        ($type:ty) => {
            each(column, |row| iceberg_hash(&i64::from(column.as_primitive::<$type>().value(row)).to_le_bytes()))
        };
    }
    Ok(match column.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::Date32 => integers!(Date32Type),
        DataType::Time64(TimeUnit::Microsecond) => integers!(Time64MicrosecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        // The specification hashes them as microseconds, rounded down.
        DataType::Timestamp(TimeUnit::Nanosecond, _) => each(column, |row| {
            let nanos = column.as_primitive::<TimestampNanosecondType>().value(row);
            iceberg_hash(&nanos.div_euclid(1_000).to_le_bytes())
        }),
        DataType::Decimal128(_, _) => {
            each(column, |row| hash_decimal(column.as_primitive::<Decimal128Type>().value(row)))
        }
        DataType::Utf8 => each(column, |row| iceberg_hash(column.as_string::<i32>().value(row).as_bytes())),
        DataType::Binary => each(column, |row| iceberg_hash(column.as_binary::<i32>().value(row))),
        DataType::FixedSizeBinary(_) => each(column, |row| iceberg_hash(column.as_fixed_size_binary().value(row))),
        other => return Err(Error::internal(format!("{other} cannot be a bucket key"))),
    })
}

fn each(column: &ArrayRef, hash: impl Fn(usize) -> i32) -> Vec<i32> {
    (0..column.len()).map(|row| if column.is_null(row) { 0 } else { hash(row) }).collect()
}

fn hash_decimal(unscaled: i128) -> i32 {
    let bytes = unscaled.to_be_bytes();
    let sign_byte = if unscaled < 0 { 0xff } else { 0 };
    // A leading byte can go while the next one still says the sign.
    let redundant = bytes.windows(2).take_while(|pair| pair[0] == sign_byte && (pair[1] ^ sign_byte) < 0x80).count();
    iceberg_hash(&bytes[redundant..])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, Int64Array, StringArray,
        Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt16Array,
    };

    use super::*;

    #[test]
    fn hashes_are_those_of_the_iceberg_specification() {
        let uuid = 0xf79c_3e09_677c_4bbd_a479_3f34_9cb7_85e7_u128.to_be_bytes();
        let cases: [(ArrayRef, i32); 11] = [
            (Arc::new(UInt16Array::from(vec![34])), 2017239379),
            (Arc::new(Time64MicrosecondArray::from(vec![81_068_000_000])), -662762989),
            (Arc::new(TimestampNanosecondArray::from(vec![1510871468000001001])), -1207196810),
            (Arc::new(FixedSizeBinaryArray::try_from_iter([uuid].iter()).unwrap()), 1488055340),
            (Arc::new(Int32Array::from(vec![34])), 2017239379),
            (Arc::new(Int64Array::from(vec![34])), 2017239379),
            (Arc::new(Decimal128Array::from(vec![1420]).with_precision_and_scale(4, 2).unwrap()), -500754589),
            (Arc::new(Date32Array::from(vec![17486])), -653330422),
            (Arc::new(TimestampMicrosecondArray::from(vec![1510871468000000])), -2047944441),
            (Arc::new(StringArray::from(vec!["iceberg"])), 1210000089),
            (Arc::new(arrow::array::BinaryArray::from_vec(vec![&[0, 1, 2, 3]])), -188683207),
        ];
        for (column, expected) in cases {
            assert_eq!(hash_column(&column).unwrap(), [expected], "{:?}", column.data_type());
        }
    }

    #[test]
    fn decimals_hash_their_shortest_form() {
        for (unscaled, shortest) in [
            (0i128, vec![0u8]),
            (-1, vec![0xff]),
            (127, vec![0x7f]),
            (128, vec![0, 0x80]),
            (-128, vec![0x80]),
            (-129, vec![0xff, 0x7f]),
        ] {
            assert_eq!(hash_decimal(unscaled), iceberg_hash(&shortest), "{unscaled}");
        }
    }
}
