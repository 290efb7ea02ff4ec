//! The layers point one way, heavy libraries have one home, and there is one of each.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const LAYERS: [&str; 5] =
    ["thermocline-schemas", "thermocline-engine", "thermocline-tiering", "thermocline-sql", "thermocline-server"];

/// Libraries that only one layer may name, and that layer.
const HOMES: [(&str, &str); 6] = [
    ("iceberg", "thermocline-tiering"),
    ("datafusion", "thermocline-sql"),
    ("axum", "thermocline-server"),
    ("clap", "thermocline-server"),
    ("reqwest", "thermocline-server"),
    ("parquet", "thermocline-tiering"),
];

/// Libraries of which a second version would be a second type of the same name.
const SINGLE: [&str; 9] =
    ["arrow", "arrow-array", "arrow-schema", "parquet", "datafusion", "object_store", "iceberg", "tokio", "sqlparser"];

fn metadata() -> Value {
    // Only what this machine builds: the rest may never have been fetched.
    let compiler = Command::new("rustc").arg("-vV").output().unwrap();
    let compiler = String::from_utf8(compiler.stdout).unwrap();
    let host = compiler.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn layers_point_one_way_and_heavy_libraries_have_one_home() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let mut found = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let Some(layer) = LAYERS.iter().position(|layer| *layer == name) else { continue };
        found.insert(name);
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        // What only tests use does not ship.
        let dependencies = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        for dependency in dependencies.map(|dependency| dependency["name"].as_str().unwrap()) {
            if let Some(other) = LAYERS.iter().position(|layer| *layer == dependency) {
                assert!(other < layer, "{name} must not depend on {dependency}");
            }
            let home = HOMES.iter().find(|(library, _)| *library == dependency);
            assert!(home.is_none_or(|(_, home)| *home == name), "{name} must not name {dependency}: {home:?}");
        }
    }
    assert_eq!(found.len(), LAYERS.len());
}

#[test]
fn there_is_one_version_of_what_types_cross() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        versions.entry(package["name"].as_str().unwrap()).or_default().insert(package["version"].as_str().unwrap());
    }
    for name in SINGLE {
        let found = versions.get(name).unwrap_or_else(|| panic!("{name} is not used any more: take it off the list"));
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new("git").args(["ls-files"]).current_dir(root).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    let top: BTreeSet<_> =
        files.lines().filter_map(|file| file.split('/').next()).filter(|name| !name.starts_with('.')).collect();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "engine",
        "integration-tests",
        "schemas",
        "server",
        "sql",
        "tiering",
    ];
    assert_eq!(top, expected.into_iter().collect());
}

#[test]
fn readme_lists_every_error_code() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    for code in thermocline_schemas::Code::ALL {
        let row = format!("| `{}` | {} | {} |", code.as_str(), code.kind().status(), code.meaning());
        assert!(readme.contains(&row), "README lacks the line {row}");
    }
}
