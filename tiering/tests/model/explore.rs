//! Breadth-first search of all states that a protocol can come to.
//!
//! Always: each state is visited once, nearest first, so the first violation found is one of the shortest. States are
//! known again by 128 bits of hash; a counterexample is rebuilt by taking its actions once more.
//!
//! A small search of our own and not `stateright`: that one would switch on features of `ahash` below Arrow, and all of
//! DataFusion would be built twice.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// What can be searched.
pub trait Protocol {
    type State: Clone + Hash;
    type Action: Clone + Debug;

    fn initial(&self) -> Self::State;

    /// Adds all that can happen in `state`.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);

    fn step(&self, state: &Self::State, action: &Self::Action) -> Self::State;

    /// What must not be, and is.
    fn violated(&self, state: &Self::State) -> Option<&'static str>;
}

/// How a search ended.
#[derive(Debug)]
pub enum Outcome<A> {
    /// There are no other states.
    Exhausted(Size),
    /// The shortest way to something that must not be.
    Found { violated: &'static str, path: Vec<A>, size: Size },
    /// The bound was reached first.
    Unfinished(Size),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
}

/// Searches until there is nothing new, something is violated, or `states_max` are known.
pub fn explore<P: Protocol>(protocol: &P, states_max: usize) -> Outcome<P::Action> {
    let first = protocol.initial();
    let mut known = HashSet::<u128, BuildHasherDefault<Known>>::default();
    known.insert(fingerprint(&first));
    // Of each state: the number of the one it was first reached from, and by which of that one's actions.
    let mut came: Vec<(u32, u16)> = vec![(0, 0)];
    let mut size = Size { states: 1, ..Size::default() };
    let mut waiting = VecDeque::from([(0_u32, 0_usize, first)]);
    let mut actions = Vec::new();
    while let Some((number, depth, state)) = waiting.pop_front() {
        size.depth = depth;
        if let Some(violated) = protocol.violated(&state) {
            return Outcome::Found { violated, path: path(protocol, &came, number), size };
        }
        actions.clear();
        protocol.actions(&state, &mut actions);
        for (index, action) in actions.iter().enumerate() {
            let next = protocol.step(&state, action);
            size.transitions += 1;
            if !known.insert(fingerprint(&next)) {
                continue;
            }
            if size.states == states_max {
                return Outcome::Unfinished(size);
            }
            waiting.push_back((size.states as u32, depth + 1, next));
            came.push((number, index as u16));
            size.states += 1;
        }
    }
    Outcome::Exhausted(size)
}

fn path<P: Protocol>(protocol: &P, came: &[(u32, u16)], to: u32) -> Vec<P::Action> {
    let mut indexes = Vec::new();
    let mut at = to;
    while at != 0 {
        let (from, index) = came[at as usize];
        indexes.push(index);
        at = from;
    }
    let mut state = protocol.initial();
    let mut path = Vec::new();
    for index in indexes.into_iter().rev() {
        let mut actions = Vec::new();
        protocol.actions(&state, &mut actions);
        let action = actions.swap_remove(index as usize);
        state = protocol.step(&state, &action);
        path.push(action);
    }
    path
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut hasher = Wide { low: 0x9e37_79b9_7f4a_7c15, high: 0xc2b2_ae3d_27d4_eb4f };
    state.hash(&mut hasher);
    u128::from(mixed(hasher.low)) << 64 | u128::from(mixed(hasher.high))
}

/// Two lanes of multiply and rotate with different constants.
struct Wide {
    low: u64,
    high: u64,
}

impl Wide {
    fn take(&mut self, word: u64) {
        self.low = (self.low ^ word).wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(29);
        self.high = (self.high.rotate_left(23) ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
}

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.take(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.take(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.take(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.take(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.take(value as u64);
    }

    fn finish(&self) -> u64 {
        self.low
    }
}

fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let word = (word ^ word >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ word >> 32
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept")
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

mod tests {
    use super::*;

    /// Two counters up to a bound, one step at a time.
    struct Counters {
        bound: u8,
        forbidden: (u8, u8),
    }

    impl Protocol for Counters {
        type State = (u8, u8);
        type Action = bool;

        fn initial(&self) -> (u8, u8) {
            (0, 0)
        }

        fn actions(&self, state: &(u8, u8), actions: &mut Vec<bool>) {
            actions.extend((state.0 < self.bound).then_some(true));
            actions.extend((state.1 < self.bound).then_some(false));
        }

        fn step(&self, state: &(u8, u8), first: &bool) -> (u8, u8) {
            if *first { (state.0 + 1, state.1) } else { (state.0, state.1 + 1) }
        }

        fn violated(&self, state: &(u8, u8)) -> Option<&'static str> {
            (*state == self.forbidden).then_some("forbidden")
        }
    }

    #[test]
    fn all_states_once_and_the_shortest_way() {
        let Outcome::Exhausted(size) = explore(&Counters { bound: 9, forbidden: (99, 0) }, 1000) else { panic!() };
        assert_eq!((size.states, size.transitions, size.depth), (100, 180, 18));
        let Outcome::Found { path, .. } = explore(&Counters { bound: 9, forbidden: (2, 3) }, 1000) else { panic!() };
        assert_eq!((path.len(), path.iter().filter(|first| **first).count()), (5, 2));
        assert!(matches!(explore(&Counters { bound: 9, forbidden: (99, 0) }, 99), Outcome::Unfinished(_)));
    }
}
