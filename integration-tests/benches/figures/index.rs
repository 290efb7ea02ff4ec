//! The key index beside what else could be one: the same keys put in and looked up, and what they take in memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use thermocline_engine::{KeyHash, KeyIndex};
use thermocline_schemas::Offset;

use crate::heading;

const KEYS: usize = 5_000_000;
/// Keys that one lookup names.
const AT_ONCE: usize = 10_000;
const PAGE_BYTES: f64 = 4096.0;

pub fn run() {
    heading(&format!("the key index, {} M keys of 128 bits in random order", KEYS / 1_000_000));
    let mut random = SmallRng::seed_from_u64(1);
    let keys: Vec<u128> = (0..KEYS).map(|_| random.random()).collect();
    let mut asked = keys.clone();
    asked.shuffle(&mut random);
    let put = |index: &mut KeyIndex, (at, key): (usize, &u128)| index.put(KeyHash(*key), None, Offset(at as u64));
    let find = |index: &KeyIndex, keys: &[u128]| {
        let hashes: Vec<_> = keys.iter().map(|key| KeyHash(*key)).collect();
        index.find(&hashes).into_iter().flatten().map(|offset| offset.0).sum()
    };
    measure("ours: open addressing, 24 bytes a slot", &keys, &asked, put, find);
    measure(
        "std HashMap, the key's own bits as its hash",
        &keys,
        &asked,
        |map: &mut HashMap<u128, u64, BuildHasherDefault<OwnBits>>, (at, key)| {
            map.insert(*key, at as u64);
        },
        |map, keys| keys.iter().filter_map(|key| map.get(key)).sum(),
    );
    measure(
        "std HashMap, SipHash",
        &keys,
        &asked,
        |map: &mut HashMap<u128, u64>, (at, key)| {
            map.insert(*key, at as u64);
        },
        |map, keys| keys.iter().filter_map(|key| map.get(key)).sum(),
    );
    measure(
        "std BTreeMap",
        &keys,
        &asked,
        |map: &mut BTreeMap<u128, u64>, (at, key)| {
            map.insert(*key, at as u64);
        },
        |map, keys| keys.iter().filter_map(|key| map.get(key)).sum(),
    );
}

fn measure<I: Default>(
    what: &str,
    keys: &[u128],
    asked: &[u128],
    put: impl Fn(&mut I, (usize, &u128)),
    find: impl Fn(&I, &[u128]) -> u64,
) {
    let before = resident_bytes();
    let mut index = I::default();
    let started = Instant::now();
    keys.iter().enumerate().for_each(|key| put(&mut index, key));
    let puts = keys.len() as f64 / started.elapsed().as_secs_f64();
    let bytes = (resident_bytes() - before) / keys.len() as f64;
    let started = Instant::now();
    let sum: u64 = asked.chunks(AT_ONCE).map(|keys| find(&index, keys)).sum();
    let finds = asked.len() as f64 / started.elapsed().as_secs_f64();
    let all = keys.len() as u64;
    assert_eq!(sum, all * (all - 1) / 2, "{what}: every key is found where it was put");
    println!("{what:<46} {:>6.1} M puts/s {:>6.1} M finds/s {bytes:>6.1} bytes a key", puts / 1e6, finds / 1e6);
}

fn resident_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux says what a process holds");
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * PAGE_BYTES
}

/// The low bits of a key, which are a hash already.
#[derive(Default)]
struct OwnBits(u64);

impl Hasher for OwnBits {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |low| u64::from_le_bytes(*low));
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
