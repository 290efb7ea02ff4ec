//! The hot tier.
pub mod disk;
