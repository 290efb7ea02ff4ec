//! A model of the protocol for log tables, searched until there is no state left that was not seen; and beside it one
//! for tables with primary keys ([`keys`]).
//!
//! What it stands for: owners and tickets, the journal's thread, publication, idempotent writers, upkeep, crashes and
//! recovery ([`hot`]); rounds, conditional creates and a store that loses answers ([`lake`]); splits in their single
//! steps and followers ([`reading`]). One model for all; a [`scope`] bounds what may happen, so that a search ends.
//! What must always hold stands in [`protocol`].
//!
//! Each rule of the protocol about order is also a mutant: the model without it. A search must find, for each, a way to
//! something that users would see, and prints the shortest.
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

use std::fmt::Debug;

use explore::{Outcome, Protocol, explore};
use protocol::Model;
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
    exhaust(name, &model);
    for event in &model.scope.sometimes {
        assert!(model.has_seen(*event), "{name}: {event:?} never happened: the scope is too small to say much");
    }
}

/// There is no state left that was not seen, and nothing in them that must not be.
fn exhaust<P: Protocol>(name: &str, protocol: &P) {
    match explore(protocol, STATES_MAX) {
        Outcome::Exhausted(size) => println!(
            "model {name}: {} states exhausted, {} transitions, longest way {}",
            size.states, size.transitions, size.depth
        ),
        Outcome::Found { violated, path, .. } => panic!("{name}: not so: {violated}\n{}", lines(&path)),
        Outcome::Unfinished(size) => panic!("{name}: not done with {} states", size.states),
    }
}

fn lines(path: &[impl Debug]) -> String {
    path.iter().enumerate().map(|(step, action)| format!("{:3}  {action:?}\n", step + 1)).collect()
}

/// Searches find what is wrong with each of these protocols, and print the shortest ways to it.
fn catch<P: Protocol>(mutants: impl Iterator<Item = (String, &'static str, P)>) {
    let (mut table, mut count) = (String::new(), 0);
    let mut survived = Vec::new();
    for (mutant, name, protocol) in mutants {
        count += 1;
        match explore(&protocol, STATES_MAX) {
            Outcome::Found { violated, path, size } => {
                let (steps, states) = (path.len(), size.states);
                table += &format!("{mutant:24} {name:10} {steps:5} {states:7}  {violated}\n    {path:?}\n");
            }
            Outcome::Exhausted(size) | Outcome::Unfinished(size) => survived.push((mutant, name, size)),
        }
    }
    println!("mutant                   scope      steps  states  what is broken, and how\n{table}");
    println!("mutants caught: {} of {count}", count - survived.len());
    assert!(survived.is_empty(), "not caught: {survived:?}");
}

/// Without this mutant's rule nothing is wrong either.
fn changes_nothing<P: Protocol>(mutant: impl Debug, protocol: &P) {
    match explore(protocol, STATES_MAX) {
        Outcome::Exhausted(size) => println!("{mutant:?} changes nothing: {} states exhausted", size.states),
        other => panic!("{mutant:?} is a first line: {other:?}"),
    }
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
    let mutants = Mutant::ALL.iter().filter(|mutant| !SECOND_LINES.contains(mutant));
    catch(mutants.map(|mutant| {
        let model = Model::new(scopes::with(*mutant));
        (format!("{mutant:?}"), model.scope.name, model)
    }));
}

/// If one of these is caught some day, it has become a rule of its own.
#[test]
fn second_lines_are_not_needed_here() {
    for mutant in SECOND_LINES {
        changes_nothing(mutant, &Model::new(scopes::with(mutant)));
    }
}
