//! A model of the protocol for tables with primary keys, searched to the end like that for log tables.
//!
//! What it stands for: derivation with its overlay, tickets that are aborted, publication in its single steps
//! ([`writing`]); crashes, what a start makes of them, and index snapshots ([`recovery`]); rounds with deletes and rewrites
//! beside them ([`lake`]); splits, lookups and followers ([`reading`]). The log itself says what is right ([`truth`]), and
//! [`protocol`] what must always hold. Where the two models touch, a journal or a store that misbehaves, idempotent
//! writers and checkpoints are left to the other.
//!
//! As there, each rule about order is a mutant too, and a search must find what users would see of it.

mod lake;
mod protocol;
mod reading;
mod recovery;
mod scope;
mod scopes;
mod state;
mod truth;
mod writing;

use crate::explore::{Outcome, explore};
use crate::{STATES_MAX, is_large};
use protocol::{Action, Model};
use scope::{Mutant, SECOND_LINES, Scope};

/// Nothing that must not be can come about, and all that should come about does.
fn holds(scope: fn(bool) -> Scope) {
    let model = Model::new(scope(is_large()));
    let name = model.scope.name;
    match explore(&model, STATES_MAX) {
        Outcome::Exhausted(size) => println!(
            "keys model {name}: {} states exhausted, {} transitions, longest way {}",
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
fn overlays_hold() {
    holds(scopes::overlays);
}

#[test]
fn lookups_hold() {
    holds(scopes::lookups);
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
fn rewrites_hold() {
    holds(scopes::rewrites);
}

#[test]
fn splits_hold() {
    holds(scopes::splits);
}

#[test]
fn floors_hold() {
    holds(scopes::floors);
}

#[test]
fn cold_rows_hold() {
    holds(scopes::cold_rows);
}

#[test]
fn followers_hold() {
    holds(scopes::followers);
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
