//! A model of the protocol for tables with primary keys, searched to the end like that for log tables.
//!
//! What it stands for: derivation with its overlay, tickets that are aborted, publication in its single steps
//! ([`writing`]); crashes, what a start makes of them, and index snapshots ([`recovery`]); rounds with deletes and
//! rewrites beside them ([`lake`]); splits, lookups and followers ([`reading`]). The log itself says what is right
//! ([`truth`]), and [`protocol`] what must always hold. Where the two models touch, a journal or a store that
//! misbehaves, idempotent writers and checkpoints are left to the other.
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

use crate::{catch, changes_nothing, exhaust, is_large};
use protocol::Model;
use scope::{Mutant, SECOND_LINES, Scope};

/// Nothing that must not be can come about, and all that should come about does.
fn holds(scope: fn(bool) -> Scope) {
    let model = Model::new(scope(is_large()));
    let name = model.scope.name;
    exhaust(&format!("of keys, {name}"), &model);
    for event in &model.scope.sometimes {
        assert!(model.has_seen(*event), "{name}: {event:?} never happened: the scope is too small to say much");
    }
}

#[test]
fn overlays_hold() {
    holds(scopes::overlays);
}

#[test]
fn statements_hold() {
    holds(scopes::statements);
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
fn steps_hold() {
    holds(scopes::steps);
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
fn brief_logs_hold() {
    holds(scopes::brief_logs);
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
