//! A model of the protocol for log tables, searched until there is no state left that was not seen.
//!
//! What it stands for: owners and tickets, the journal's thread, publication, idempotent writers, upkeep, crashes and
//! recovery ([`hot`]); rounds, conditional creates and a store that loses answers ([`lake`]); splits in their single steps
//! and followers ([`reading`]). One model for all; a [`scope`] bounds what may happen, so that a search ends. What must
//! always hold stands in [`protocol`].
//!
//! Each rule of the protocol about order is also a mutant: the model without it. A search must find, for each, a way to
//! something that users would see, and prints how long the shortest is.
//!
//! And the model is held against the real thing: recorded histories must be ways that it can take ([`traces`]).
//!
//! `THERMOCLINE_MODEL=large` searches larger scopes, for minutes. To see the numbers:
//! `cargo test --workspace --locked --test model -- --nocapture`.

#![allow(clippy::print_stdout)] // how much was searched is for people to see

mod explore;
mod hot;
mod keys;
mod lake;
mod protocol;
mod reading;
mod scope;
mod scopes;
mod state;
mod traces;

use explore::{Outcome, explore};
use protocol::{Action, Model};
use scope::{Mutant, SECOND_LINES, Scope};

/// More than any search of a small scope needs, and as much as a machine with 8 GB can hold.
const STATES_MAX: usize = 20_000_000;

fn is_large() -> bool {
    std::env::var("THERMOCLINE_MODEL").is_ok_and(|size| size == "large")
}

/// Nothing that must not be can come about, and all that should come about does.
fn holds(scope: fn(bool) -> Scope) {
    let model = Model::new(scope(is_large()));
    let name = model.scope.name;
    match explore(&model, STATES_MAX) {
        Outcome::Exhausted(size) => println!(
            "model {name}: {} states exhausted, {} transitions, longest way {}",
            size.states, size.transitions, size.depth
        ),
        Outcome::Found { violated, path, .. } => panic!("{name}: not so: {violated}\n{}", lines(&path)),
        Outcome::Unfinished(size) => panic!("{name}: not done with {} states", size.states),
    }
    for event in &model.scope.sometimes {
        assert!(model.has_seen(*event), "{name}: {event:?} never happened: the scope is too small to say much");
    }
}

fn lines(path: &[Action]) -> String {
    path.iter().enumerate().map(|(step, action)| format!("{:3}  {action:?}\n", step + 1)).collect()
}

#[test]
fn tickets_hold() {
    holds(scopes::tickets);
}

#[test]
fn repeats_hold() {
    holds(scopes::repeats);
}

#[test]
fn cuts_hold() {
    holds(scopes::cuts);
}

#[test]
fn rounds_hold() {
    holds(scopes::rounds);
}

#[test]
fn boundaries_hold() {
    holds(scopes::boundaries);
}

#[test]
fn splits_hold() {
    holds(scopes::splits);
}

#[test]
fn files_hold() {
    holds(scopes::files);
}

#[test]
fn segments_hold() {
    holds(scopes::segments);
}

#[test]
fn rot_holds() {
    holds(scopes::rot);
}

#[test]
fn every_mutant_is_caught() {
    let mut table = String::new();
    let mut survived = Vec::new();
    let mutants: Vec<_> = Mutant::ALL.iter().filter(|mutant| !SECOND_LINES.contains(mutant)).collect();
    for mutant in &mutants {
        let model = Model::new(scopes::with(**mutant));
        let name = model.scope.name;
        match explore(&model, STATES_MAX) {
            Outcome::Found { violated, path, size } => {
                let (steps, states) = (path.len(), size.states);
                table += &format!("{:24} {name:10} {steps:5} {states:7}  {violated}\n", format!("{mutant:?}"));
            }
            Outcome::Exhausted(size) | Outcome::Unfinished(size) => survived.push((mutant, name, size)),
        }
    }
    println!("mutant                   scope      steps  states  what is broken\n{table}");
    println!("mutants caught: {} of {}", mutants.len() - survived.len(), mutants.len());
    assert!(survived.is_empty(), "not caught: {survived:?}");
}

/// If one of these is caught some day, it has become a rule of its own.
#[test]
fn second_lines_are_not_needed_here() {
    for mutant in SECOND_LINES {
        let model = Model::new(scopes::with(mutant));
        match explore(&model, STATES_MAX) {
            Outcome::Exhausted(size) => println!("{mutant:?} changes nothing: {} states exhausted", size.states),
            other => panic!("{mutant:?} is a first line: {other:?}"),
        }
    }
}
