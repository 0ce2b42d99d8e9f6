//! The drawn directions between the rooms, compared with what the manifests and imports say.
//!
//! The drawing stands in ARCHITECTURE.md; the tables here are the same drawing as data.

use std::path::Path;

use anyhow::{Context, Result};

use crate::Complaint;

/// Who may import whom among our crates, apart from dev-dependencies. Everyone may import `model`,
/// save those that import nothing of ours.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("s3sim", &[]),
    ("testkit", &["model"]),
    ("http1", &["model"]),
    ("store", &["model", "http1"]),
    ("namespace", &["model"]),
    ("cache", &["model"]),
    ("mount", &["model"]),
    ("gateway", &["model"]),
    ("cluster", &["model", "http1"]),
    ("oracle", &["model"]),
    ("fill", &["model", "oracle"]),
    (
        "node",
        &["model", "store", "namespace", "cache", "mount", "gateway", "cluster", "fill", "oracle"],
    ),
    ("bench", &["model", "cache", "node", "oracle"]),
    ("sim", &["model", "cluster"]),
    ("cli", &["model", "node", "bench", "s3sim"]),
];

/// Outside crates that only some rooms may name, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("fuser", &["mount"], "only mount names the FUSE library"),
    ("object_store", &["store"], "only store names object stores"),
    ("axum", &["gateway"], "only gateway names the HTTP framework"),
    ("hyper", &["gateway", "cluster", "s3sim"], "only these speak HTTP themselves"),
    ("etcd-client", &["cluster"], "only cluster speaks to etcd"),
    ("s3s", &["gateway"], "only gateway speaks S3 as a server"),
    ("clap", &["cli", "bench", "s3sim"], "only programs parse a command line"),
];

/// Compares every crate under `crates/` with the tables.
pub(crate) fn check(root: &Path) -> Result<Vec<Complaint>> {
    let mut complaints = Vec::new();
    let crates = root.join("crates");
    for entry in std::fs::read_dir(&crates).context("read crates/")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let place = format!("crates/{name}/Cargo.toml");
        let text = std::fs::read_to_string(root.join(&place)).context(place.clone())?;
        let manifest: toml::Table = text.parse().with_context(|| place.clone())?;
        for mend in check_manifest(&name, &manifest) {
            complaints.push(Complaint { place: place.clone(), mend });
        }
    }
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    for (name, _) in MAY_IMPORT {
        if !map.contains(&format!("`{name}`")) {
            let mend = format!("`{name}` is not on the map: add it to the rooms");
            complaints.push(Complaint { place: "ARCHITECTURE.md".to_owned(), mend });
        }
    }
    Ok(complaints)
}

/// What is wrong with one manifest.
fn check_manifest(name: &str, manifest: &toml::Table) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(room, _)| *room == name) else {
        return vec!["a room that is not drawn: add it to xtask/src/rooms.rs and the map".into()];
    };
    let mut mends = Vec::new();
    for dependency in dependencies(manifest, "dependencies") {
        if let Some(other) = dependency.strip_prefix("feedline-")
            && !allowed.contains(&other)
        {
            mends.push(format!("{name} may not import {other}: go through `model` or `node`"));
        }
        if let Some((_, rooms, why)) = RESERVED.iter().find(|(it, ..)| *it == dependency)
            && !rooms.contains(&name)
        {
            mends.push(format!("{name} may not depend on {dependency}: {why}"));
        }
        if dependency == "feedline-testkit" {
            mends.push("testkit is for dev-dependencies only".to_owned());
        }
    }
    let workspace_lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if workspace_lints.and_then(toml::Value::as_bool) != Some(true) {
        mends.push("add `[lints] workspace = true`".to_owned());
    }
    mends
}

/// The names in one dependency table.
fn dependencies(manifest: &toml::Table, table: &str) -> Vec<String> {
    let found = manifest.get(table).and_then(toml::Value::as_table);
    found.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mends(name: &str, dependencies: &str) -> Vec<String> {
        let text = format!("[lints]\nworkspace = true\n[dependencies]\n{dependencies}");
        check_manifest(name, &text.parse().expect("a manifest"))
    }

    #[test]
    fn a_sideways_import_is_named() {
        assert!(mends("cache", "feedline-store = \"1\"")[0].contains("may not import store"));
        assert!(mends("cache", "feedline-model = \"1\"").is_empty());
    }

    #[test]
    fn a_reserved_dependency_is_named() {
        assert!(mends("cache", "fuser = \"1\"")[0].contains("only mount"));
        assert!(mends("mount", "fuser = \"1\"").is_empty());
    }

    #[test]
    fn an_undrawn_room_is_named() {
        assert!(mends("attic", "")[0].contains("not drawn"));
    }
}
