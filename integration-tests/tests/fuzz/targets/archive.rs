//! Several files as one input: path, a line feed, the length in digits, a line feed, the bytes; and so on.

use rand::Rng;
use rand::rngs::StdRng;

use crate::mutate::{Source, flip, mutate};

pub type Files = Vec<(String, Vec<u8>)>;

pub fn pack(files: &Files) -> Vec<u8> {
    let mut packed = Vec::new();
    for (path, bytes) in files {
        packed.extend_from_slice(format!("{path}\n{}\n", bytes.len()).as_bytes());
        packed.extend_from_slice(bytes);
    }
    packed
}

pub fn unpack(mut packed: &[u8]) -> Option<Files> {
    let mut files = Vec::new();
    while !packed.is_empty() {
        let path = line(&mut packed)?;
        let length = line(&mut packed)?.parse().ok()?;
        let (bytes, rest) = packed.split_at_checked(length)?;
        files.push((path, bytes.to_vec()));
        packed = rest;
    }
    Some(files)
}

fn line(packed: &mut &[u8]) -> Option<String> {
    let end = packed.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8(packed[..end].to_vec()).ok()?;
    *packed = &packed[end + 1..];
    Some(line)
}

/// Changes one of the files that `of` picks.
pub fn change_one(
    input: &mut Vec<u8>,
    source: &Source<'_>,
    random: &mut StdRng,
    of: impl Fn(&str) -> bool,
    seal: impl Fn(&str, &mut Vec<u8>, &mut StdRng),
) {
    one(input, random, of, |path, bytes, random| {
        // Pieces of other archives would bring their names along.
        mutate(bytes, &Source { words: source.words, pool: &[] }, random);
        seal(path, bytes, random);
    });
}

/// Flips a bit of one of the files that `of` picks.
pub fn flip_one(input: &mut Vec<u8>, random: &mut StdRng, of: impl Fn(&str) -> bool) {
    one(input, random, of, |_, bytes, random| flip(bytes, random));
}

fn one(
    input: &mut Vec<u8>,
    random: &mut StdRng,
    of: impl Fn(&str) -> bool,
    change: impl FnOnce(&str, &mut Vec<u8>, &mut StdRng),
) {
    let Some(mut files) = unpack(input) else { return };
    let mut open: Vec<_> = files.iter_mut().filter(|(path, bytes)| of(path) && !bytes.is_empty()).collect();
    if open.is_empty() {
        return;
    }
    let place = random.random_range(0..open.len());
    let (path, bytes) = &mut *open[place];
    change(path, bytes, random);
    *input = pack(&files);
}
