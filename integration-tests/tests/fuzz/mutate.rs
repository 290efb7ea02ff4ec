//! Changes to inputs: bits, lengths, words, pieces of other inputs.

use rand::Rng;
use rand::rngs::StdRng;

/// Inputs stay below this.
pub const BYTES_MAX: usize = 128 << 10;

/// Numbers at which counts and lengths break.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    127,
    128,
    255,
    256,
    4096,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// What the changes of one target draw from.
pub struct Source<'a> {
    /// Words of the format.
    pub words: &'a [&'a str],
    /// Inputs that were kept.
    pub pool: &'a [Vec<u8>],
}

/// Flips one bit; most formats must see that.
pub fn flip(input: &mut [u8], random: &mut StdRng) {
    if !input.is_empty() {
        let bit = random.random_range(0..input.len() * 8);
        input[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Makes one to four changes.
pub fn mutate(input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..=4) {
        change(input, source, random);
        input.truncate(BYTES_MAX);
    }
}

fn change(input: &mut Vec<u8>, source: &Source<'_>, random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..14) {
        0 => flip(input, random),
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.random();
            }
        }
        2 | 3 => overwrite(input, at, &number(random), random.random()),
        4 => {
            // A piece less.
            let end = piece(input.len(), at, random);
            input.drain(at..end);
        }
        5 => input.truncate(at),
        6 => {
            // A piece twice, or often.
            let copy = input[at..piece(input.len(), at, random)].to_vec();
            let times = if random.random_bool(0.9) { 1 } else { random.random_range(2..2_000) };
            let times = times.min(BYTES_MAX / copy.len().max(1));
            input.splice(at..at, copy.repeat(times));
        }
        7 => {
            // A piece elsewhere, over what was there.
            let copy = input[at..piece(input.len(), at, random)].to_vec();
            let to = random.random_range(0..=input.len());
            overwrite(input, to, &copy, false);
        }
        8 | 9 if !source.words.is_empty() => {
            let word = source.words[random.random_range(0..source.words.len())].as_bytes();
            overwrite(input, at, word, random.random_bool(0.7));
        }
        10 => digits(input, random),
        11 => {
            // One input until here, another from there.
            if let Some(other) = pick(source.pool, random) {
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        12 => {
            if let Some(other) = pick(source.pool, random) {
                let from = random.random_range(0..=other.len());
                let copy = other[from..piece(other.len(), from, random)].to_vec();
                overwrite(input, at, &copy, random.random());
            }
        }
        _ => {
            let bytes: Vec<u8> = (0..random.random_range(1..9)).map(|_| random.random()).collect();
            overwrite(input, at, &bytes, random.random());
        }
    }
}

pub fn pick<'a, T>(all: &'a [T], random: &mut StdRng) -> Option<&'a T> {
    if all.is_empty() { None } else { all.get(random.random_range(0..all.len())) }
}

/// Where a piece from `from` ends: mostly soon.
fn piece(length: usize, from: usize, random: &mut StdRng) -> usize {
    let most = if random.random_bool(0.8) { 32 } else { 4096 };
    (from + random.random_range(0..=most)).min(length)
}

/// A number of 1, 2, 4 or 8 bytes in either order, or as a varint, as a format may have it for a length.
fn number(random: &mut StdRng) -> Vec<u8> {
    let number = NUMBERS[random.random_range(0..NUMBERS.len())];
    let bytes = number.to_le_bytes();
    match random.random_range(0..7) {
        0 => bytes[..1].to_vec(),
        1 => bytes[..2].to_vec(),
        2 => bytes[..4].to_vec(),
        3 => bytes.to_vec(),
        4 => number.to_be_bytes()[4..].to_vec(),
        5 => number.to_be_bytes().to_vec(),
        _ => {
            let (mut rest, mut varint) = (number, Vec::new());
            while rest >= 0x80 {
                varint.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            varint.push(rest as u8);
            varint
        }
    }
}

/// Puts `bytes` at a place, between what is there or over it.
fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8], insert: bool) {
    let end = if insert { at } else { (at + bytes.len()).min(input.len()) };
    input.splice(at..end, bytes.iter().copied());
}

/// Another number where one is written in digits.
fn digits(input: &mut Vec<u8>, random: &mut StdRng) {
    if input.is_empty() {
        return;
    }
    let start = random.random_range(0..input.len());
    let Some(first) = (start..input.len()).find(|at| input[*at].is_ascii_digit()) else { return };
    let end = (first..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
    let number = NUMBERS[random.random_range(0..NUMBERS.len())];
    let text = match random.random_range(0..5) {
        0 => format!("-{number}"),
        1 => format!("{number}.5"),
        2 => format!("{number}e{}", random.random_range(0..400)),
        _ => number.to_string(),
    };
    input.splice(first..end, text.into_bytes());
}
