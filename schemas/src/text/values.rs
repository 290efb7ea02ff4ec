//! The text of single values, shared by JSON and CSV: numbers, decimals, dates and times.
//!
//! | value | written | also read |
//! |---|---|---|
//! | date | `2026-11-23`; years outside 0 to 9999 with a sign, `+12026-11-23`, `-0044-03-15` | |
//! | time of day | `13:00:01`, `13:00:01.000001` | 1 to 9 digits after the point |
//! | timestamp | `2026-11-23T13:00:01` | a space or `t` for `T` |
//! | timestamptz | the same with `Z` | `z`, `+02:00`, `+0200`, `+02` |
//! | uuid | `0189dd5c-a2a5-7d1e-9a4c-0242ac120002` | upper case |
//! | decimal | all digits of its scale: `12.30` | exponents, missing and surplus zeros, a leading `+` |
//!
//! Fractions of a second are written only when there is one, then with 6 digits; nanosecond types of query answers get
//! 9. Reading is exact: digits that the type cannot hold are refused unless they are zeros. Dates reach as far as
//! chrono does, years -262143 to 262142, because DataFusion formats and computes with it; writing has no limit.

use std::borrow::Cow;
use std::io::Write as _;

use chrono::{Datelike as _, NaiveDate};

use super::EpochUnit;
use crate::types::UUID_BYTES;

/// Why a text is not a value of its type, as the end of the sentence "it …".
pub(super) type Reason = Cow<'static, str>;

const NOT_A_NUMBER: Reason = Cow::Borrowed("is not a number");
const OUT_OF_RANGE: Reason = Cow::Borrowed("is out of range");
const SECONDS_PER_DAY: i64 = 86_400;
const MICROS_PER_DAY: i64 = 86_400_000_000;
const DAYS_FROM_CE_TO_1970: i32 = 719_163;

/// A whole number, also one spelled `1.0` or `1e3`.
pub(super) fn parse_integer(text: &str) -> Result<i64, Reason> {
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    let value = parse_decimal(text, 38, 0).map_err(|reason| match reason.contains("after the point") {
        true => Cow::Borrowed("has a fraction"),
        false => reason,
    })?;
    i64::try_from(value).map_err(|_| Cow::Borrowed("is out of range"))
}

/// A decimal as its unscaled integer, `scale` digits after the point, fewer than `precision + 1` digits in all.
pub(super) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Result<i128, Reason> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let exponent_at = unsigned.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent_at {
        None => (unsigned, 0),
        Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
    };
    let point_at = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point_at {
        None => (mantissa, &[][..]),
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
    };
    let digits = || whole.iter().chain(fraction);
    let count = whole.len() + fraction.len();
    if count == 0 || !digits().all(u8::is_ascii_digit) {
        return Err(NOT_A_NUMBER);
    }
    let leading = digits().take_while(|digit| **digit == b'0').count();
    if leading == count {
        return Ok(0);
    }
    let trailing = digits().rev().take_while(|digit| **digit == b'0').count();
    let significant = count - leading - trailing;
    // The value is its significant digits times ten to this power, in units of the scale.
    let shift = exponent.saturating_add(i64::from(scale)) - fraction.len() as i64 + trailing as i64;
    if shift < 0 {
        return Err(format!("has more than {scale} digits after the point").into());
    }
    if shift.saturating_add(significant as i64) > i64::from(precision) {
        return Err("is out of range".into());
    }
    // At most 38 digits from here on, which an i128 holds.
    let value = digits().skip(leading).take(significant).fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    let value = value * 10i128.pow(shift as u32);
    Ok(if negative { -value } else { value })
}

/// Exponents past any use are cut to a billion: far outside every type, and safe to add to.
fn parse_exponent(text: &[u8]) -> Result<i64, Reason> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NOT_A_NUMBER);
    }
    let value = digits.iter().fold(0i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(1_000_000_000));
    Ok(if negative { -value } else { value })
}

/// A float's number; its names are the caller's to read. A number past the largest float is refused, not made infinite.
pub(super) fn parse_float<T: std::str::FromStr + Copy + Into<f64>>(text: &str) -> Result<T, Reason> {
    // The standard parser also takes `inf`, `nan` and `infinity`.
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return Err(NOT_A_NUMBER);
    }
    let value: T = text.parse().map_err(|_| NOT_A_NUMBER)?;
    if value.into().is_finite() { Ok(value) } else { Err("is out of range".into()) }
}

/// The floats that are not numbers.
pub(super) fn parse_float_name(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Days since 1970.
pub(super) fn parse_date(text: &str) -> Result<i32, Reason> {
    parse_date_bytes(text.as_bytes()).ok_or(Cow::Borrowed("is not a date as 2026-11-23"))
}

fn parse_date_bytes(text: &[u8]) -> Option<i32> {
    let (year, rest) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let &[b'-', m1, m2, b'-', d1, d2] = rest else { return None };
    let (sign, year) = match year {
        [b'-', digits @ ..] if (4..=6).contains(&digits.len()) => (-1, digits),
        [b'+', digits @ ..] if (4..=6).contains(&digits.len()) => (1, digits),
        digits if digits.len() == 4 => (1, digits),
        _ => return None,
    };
    let year = sign * year.iter().try_fold(0, |sum, digit| Some(sum * 10 + digit_value(*digit)? as i32))?;
    let date = NaiveDate::from_ymd_opt(year, two_digits(m1, m2)?, two_digits(d1, d2)?)?;
    Some(date.num_days_from_ce() - DAYS_FROM_CE_TO_1970)
}

/// Microseconds since 1970. `zoned` values must say their offset, others must not.
pub(super) fn parse_timestamp(text: &str, zoned: bool) -> Result<i64, Reason> {
    let (seconds, nanos) = parse_moment(text, zoned)?;
    check_range(seconds * 1_000_000 + micros(nanos)?)
}

/// As [`parse_timestamp`], in nanoseconds.
pub(super) fn parse_timestamp_nanos(text: &str, zoned: bool) -> Result<i64, Reason> {
    let (seconds, nanos) = parse_moment(text, zoned)?;
    // Also where the seconds alone, rounded down, are out of range and the nanoseconds bring them back.
    i64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(nanos)).map_err(|_| OUT_OF_RANGE)
}

/// Seconds since 1970, rounded down, and the nanoseconds into that second.
fn parse_moment(text: &str, zoned: bool) -> Result<(i64, i64), Reason> {
    let refuse = || match zoned {
        true => Reason::from("is not a time as 2026-11-23T13:00:01.000001Z"),
        false => Reason::from("is not a time as 2026-11-23T13:00:01.000001"),
    };
    let bytes = text.as_bytes();
    let middle = bytes.iter().position(|byte| matches!(byte, b'T' | b't' | b' ')).ok_or_else(refuse)?;
    let days = parse_date_bytes(&bytes[..middle]).ok_or_else(refuse)?;
    let (clock, rest) = bytes[middle + 1..].split_at_checked(8).ok_or_else(refuse)?;
    let seconds = parse_clock(clock).ok_or_else(refuse)?;
    let (nanos, zone) = parse_fraction(rest)?;
    let offset = match zone {
        [] => None,
        [b'Z' | b'z'] => Some(0),
        zone => Some(parse_offset(zone).ok_or_else(refuse)?),
    };
    let offset = match (offset, zoned) {
        (Some(offset), true) => offset,
        (None, false) => 0,
        (None, true) => return Err("has no offset; end it with Z or as +02:00".into()),
        (Some(_), false) => return Err("has an offset, which a TIMESTAMP does not keep".into()),
    };
    Ok((i64::from(days) * SECONDS_PER_DAY + seconds - offset, nanos))
}

/// Microseconds since midnight.
pub(super) fn parse_time(text: &str) -> Result<i64, Reason> {
    let refuse = || Reason::from("is not a time of day as 13:00:01.000001");
    let (clock, rest) = text.as_bytes().split_at_checked(8).ok_or_else(refuse)?;
    let seconds = parse_clock(clock).ok_or_else(refuse)?;
    match parse_fraction(rest)? {
        (nanos, []) => Ok(seconds * 1_000_000 + micros(nanos)?),
        _ => Err(refuse()),
    }
}

fn micros(nanos: i64) -> Result<i64, Reason> {
    if nanos % 1_000 == 0 { Ok(nanos / 1_000) } else { Err("is finer than a microsecond".into()) }
}

/// The sixteen bytes of a UUID: 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; UUID_BYTES as usize], Reason> {
    let refuse = || Reason::from("is not a UUID as 0189dd5c-a2a5-7d1e-9a4c-0242ac120002");
    let bytes = text.as_bytes();
    let is_hyphen = |place: usize| matches!(place, 8 | 13 | 18 | 23);
    if bytes.len() != 36 {
        return Err(refuse());
    }
    let mut value = 0u128;
    for (place, byte) in bytes.iter().enumerate() {
        match (is_hyphen(place), byte) {
            (true, b'-') => {}
            (false, byte) => {
                let digit = char::from(*byte).to_digit(16).ok_or_else(refuse)?;
                value = value << 4 | u128::from(digit);
            }
            _ => return Err(refuse()),
        }
    }
    Ok(value.to_be_bytes())
}

fn parse_clock(text: &[u8]) -> Option<i64> {
    let &[h1, h2, b':', m1, m2, b':', s1, s2] = text else { return None };
    let (hours, minutes, seconds) = (two_digits(h1, h2)?, two_digits(m1, m2)?, two_digits(s1, s2)?);
    (hours < 24 && minutes < 60 && seconds < 60).then(|| i64::from(hours * 3600 + minutes * 60 + seconds))
}

/// Nanoseconds, and what follows the fraction.
fn parse_fraction(text: &[u8]) -> Result<(i64, &[u8]), Reason> {
    let [b'.', rest @ ..] = text else { return Ok((0, text)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return Err("must have 1 to 9 digits after the point".into());
    }
    let (digits, rest) = rest.split_at(count);
    let nanos = (0..9).fold(0, |sum, place| sum * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0')));
    Ok((nanos, rest))
}

/// Seconds east of UTC.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, h1, h2, m1, m2) = match *text {
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, h1, h2, m1, m2),
        [sign, h1, h2] => (sign, h1, h2, b'0', b'0'),
        _ => return None,
    };
    let (hours, minutes) = (two_digits(h1, h2)?, two_digits(m1, m2)?);
    let seconds = (hours < 24 && minutes < 60).then(|| i64::from(hours * 3600 + minutes * 60))?;
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// A number since 1970 as microseconds.
pub(super) fn epoch_micros(number: i64, unit: EpochUnit) -> Result<i64, Reason> {
    let micros = match unit {
        EpochUnit::Microseconds => number,
        EpochUnit::Milliseconds => number.checked_mul(1000).ok_or(OUT_OF_RANGE)?,
    };
    check_range(micros)
}

/// A number since 1970 as nanoseconds.
pub(super) fn epoch_nanos(number: i64, unit: EpochUnit) -> Result<i64, Reason> {
    epoch_micros(number, unit)?.checked_mul(1000).ok_or(OUT_OF_RANGE)
}

/// A number since midnight as microseconds.
pub(super) fn clock_micros(number: i64, unit: EpochUnit) -> Result<i64, Reason> {
    let micros = match unit {
        EpochUnit::Microseconds => Some(number),
        EpochUnit::Milliseconds => number.checked_mul(1000),
    };
    micros.filter(|micros| has_time(*micros)).ok_or(OUT_OF_RANGE)
}

/// A number since 1970 as days; it must be a midnight.
pub(super) fn epoch_days(number: i64, unit: EpochUnit) -> Result<i32, Reason> {
    let micros = epoch_micros(number, unit)?;
    if micros % MICROS_PER_DAY != 0 {
        return Err("is not the start of a day".into());
    }
    // A day that passed the range check fits.
    Ok((micros / MICROS_PER_DAY) as i32)
}

fn check_range(micros: i64) -> Result<i64, Reason> {
    if has_timestamp(micros) { Ok(micros) } else { Err(OUT_OF_RANGE) }
}

/// Whether microseconds since midnight are a time of day.
pub(super) fn has_time(micros: i64) -> bool {
    (0..MICROS_PER_DAY).contains(&micros)
}

/// Whether a day since 1970 is one that can be read back once it is written.
pub(super) fn has_date(day: i64) -> bool {
    let first = NaiveDate::MIN.num_days_from_ce() - DAYS_FROM_CE_TO_1970;
    let last = NaiveDate::MAX.num_days_from_ce() - DAYS_FROM_CE_TO_1970;
    (i64::from(first)..=i64::from(last)).contains(&day)
}

/// As [`has_date`], of microseconds since 1970.
pub(super) fn has_timestamp(micros: i64) -> bool {
    has_date(micros.div_euclid(MICROS_PER_DAY))
}

fn digit_value(digit: u8) -> Option<u32> {
    char::from(digit).to_digit(10)
}

fn two_digits(tens: u8, ones: u8) -> Option<u32> {
    Some(digit_value(tens)? * 10 + digit_value(ones)?)
}

/// How many digits a fraction of a second gets when there is one.
#[derive(Clone, Copy)]
pub(super) enum Fraction {
    Micros,
    Nanos,
}

// Writing into memory does not fail, so the results of `write!` below carry nothing.

/// A date from days since 1970.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => {
            write_two(year / 100, out);
            write_two(year % 100, out);
        }
        _ => drop(write!(out, "{year:+05}")),
    }
    out.push(b'-');
    write_two(month, out);
    out.push(b'-');
    write_two(day, out);
}

/// A timestamp from seconds since 1970 and the nanoseconds into that second.
pub(super) fn write_timestamp(seconds: i64, nanos: u32, fraction: Fraction, zoned: bool, out: &mut Vec<u8>) {
    write_date(seconds.div_euclid(86_400), out);
    out.push(b'T');
    write_time(seconds.rem_euclid(86_400), nanos, fraction, out);
    if zoned {
        out.push(b'Z');
    }
}

/// A time of day.
pub(super) fn write_time(seconds: i64, nanos: u32, fraction: Fraction, out: &mut Vec<u8>) {
    write_two(seconds / 3600, out);
    out.push(b':');
    write_two(seconds / 60 % 60, out);
    out.push(b':');
    write_two(seconds % 60, out);
    write_fraction(nanos, fraction, out);
}

/// Nothing for a whole second.
pub(super) fn write_fraction(nanos: u32, fraction: Fraction, out: &mut Vec<u8>) {
    if nanos != 0 {
        let _ = match fraction {
            Fraction::Micros => write!(out, ".{:06}", nanos / 1000),
            Fraction::Nanos => write!(out, ".{nanos:09}"),
        };
    }
}

/// As [`uuid_text`].
pub(super) fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        let _ = write!(out, "{byte:02x}");
    }
}

/// The bytes of a UUID as text, in lower case.
pub fn uuid_text(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(36);
    write_uuid(bytes, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// A decimal from its unscaled integer, as `Display` spells that.
pub(super) fn write_decimal(unscaled: impl std::fmt::Display, scale: i8, out: &mut Vec<u8>) {
    let start = out.len();
    let _ = write!(out, "{unscaled}");
    if scale > 0 {
        let scale = scale as usize;
        let digits_at = start + usize::from(out.get(start) == Some(&b'-'));
        let missing = (scale + 1).saturating_sub(out.len() - digits_at);
        out.splice(digits_at..digits_at, std::iter::repeat_n(b'0', missing));
        out.insert(out.len() - scale, b'.');
    } else if out[start..] != *b"0" {
        out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
    }
}

/// The last two digits of a number that is not negative.
fn write_two(number: i64, out: &mut Vec<u8>) {
    out.extend([b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Year, month and day of a day since 1970 in the Gregorian calendar, which repeats every 400 years. Years are counted
/// from March, so that the leap day is their last and months fall into a fixed pattern of 153 days per five.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    // From 1 March of the year 0 to 1970.
    let days = days.saturating_add(719_468);
    let (era, day) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}
