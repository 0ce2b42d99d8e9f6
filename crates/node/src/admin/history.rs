//! How a node tells that an etcd has lost something: each change of pins leaves a name of its own there.
//!
//! An etcd that was put back from an older copy is of the same generation, and soon of a later revision than any node
//! heard. But changes that this node knows are missing in it, and no later one takes their names.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use feedline_cluster::{Change, Facts};
use serde::{Deserialize, Serialize};

use crate::files;

/// Where changes stand among the facts.
const CHANGES: &str = "changes/";

/// So many of the last changes are named. Who was away for more takes etcd's word: a guess at what nobody misses.
const KEPT: usize = 64;

/// Older ones that go at once: a change of pins and these are to fit into one of etcd, which takes 128.
const TRIMMED_MAX: usize = 16;

/// Which etcd this node has heard last, and up to where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    generation: String,
    revision: i64,
    /// The changes of pins that it named.
    #[serde(default)]
    changes: BTreeSet<String>,
}

impl Mark {
    pub(super) fn of(facts: &Facts) -> Self {
        let changes = facts.below(CHANGES).map(|(name, _)| name.to_owned()).collect();
        Self { generation: facts.generation.clone(), revision: facts.revision, changes }
    }

    /// None, or a damaged one, is that of an etcd that was never heard: then nothing is unpinned.
    pub(super) fn read(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        files::replace(file, &text, true)
    }

    /// True if an etcd was ever heard.
    pub(super) fn is_of_any(&self) -> bool {
        !self.generation.is_empty()
    }

    /// True if these are of the etcd that was heard, and hold all that was heard of pins.
    pub(super) fn goes_on_in(&self, facts: &Facts) -> bool {
        let now = Self::of(facts);
        // Those below the first one made room for later ones.
        let is_known = |name: &String| {
            now.changes.contains(name) || now.changes.first().is_some_and(|first| name < first)
        };
        self.is_of_any()
            && self.generation == now.generation
            && self.revision <= now.revision
            && self.changes.iter().all(is_known)
    }

    /// True if nothing happened to pins since.
    pub(super) fn is_up_to_date(&self, facts: &Facts) -> bool {
        let Self { generation, changes, .. } = Self::of(facts);
        (&generation, &changes) == (&self.generation, &self.changes)
    }
}

/// What goes along with a change of pins: its name, which is later than all that are known and nobody else's, and room
/// for it.
pub(super) fn one_more(facts: &Facts, drawn: u64) -> Vec<Change> {
    let mut names: Vec<_> = facts.below(CHANGES).map(|(name, _)| name).collect();
    let last = names.last().and_then(|name| number(name)).unwrap_or_default();
    let name = format!("{CHANGES}{:016x}-{drawn:016x}", last.saturating_add(1));
    names.truncate((names.len() + 1).saturating_sub(KEPT).min(TRIMMED_MAX));
    let gone = names.iter().map(|name| Change::Remove(format!("{CHANGES}{name}")));
    std::iter::once(Change::Put(name, Vec::new())).chain(gone).collect()
}

/// Which change it is; two at the same time may be of the same number.
fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.split_once('-')?.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Facts of one generation, which take changes as an etcd does.
    fn changed(mut facts: Facts, drawn: impl IntoIterator<Item = u64>) -> Facts {
        for drawn in drawn {
            facts.revision += 1;
            for change in one_more(&facts, drawn) {
                match change {
                    Change::Put(name, value) => {
                        facts.entries.insert(name, Arc::from(value));
                    }
                    Change::Remove(name) => assert!(facts.entries.remove(&name).is_some()),
                    Change::RemoveBelow(_) => panic!("no change of names removes a folder"),
                }
            }
        }
        facts
    }

    fn empty() -> Facts {
        Facts { generation: "a".into(), revision: 5, ..Facts::default() }
    }

    #[test]
    fn facts_go_on_only_in_the_same_etcd_that_was_not_set_back() {
        let facts = |generation: &str, revision| Facts {
            generation: generation.into(),
            revision,
            ..Facts::default()
        };
        let mark = Mark::of(&facts("a", 5));
        assert!(mark.goes_on_in(&facts("a", 5)) && mark.goes_on_in(&facts("a", 6)));
        assert!(!mark.goes_on_in(&facts("a", 4)) && !mark.goes_on_in(&facts("b", 9)));
        // Who never heard one knows nothing of one that says nothing of itself either.
        assert!(!Mark::default().goes_on_in(&facts("", 1)));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("facts.json");
        assert_eq!(Mark::read(&file), Mark::default());
        let mark = Mark::of(&changed(empty(), 0..3));
        mark.write(&file).unwrap();
        assert_eq!(Mark::read(&file), mark);
        std::fs::write(&file, r#"{"generation":"a","revision":5}"#).unwrap();
        assert!(Mark::read(&file).goes_on_in(&facts("a", 5)), "as an older version wrote it");
    }

    #[test]
    fn an_etcd_that_was_put_back_from_a_copy_does_not_go_on_however_much_is_written_after() {
        let copy = changed(empty(), [1, 2]);
        let mark = Mark::of(&changed(copy.clone(), [3, 4]));
        for more in 0..30 {
            let mut facts = changed(copy.clone(), 100..100 + more);
            facts.revision += 1_000;
            assert!(!mark.goes_on_in(&facts), "after {more} changes");
            assert!(Mark::of(&copy).goes_on_in(&facts), "nothing that was known then is lost");
        }
        assert!(!mark.goes_on_in(&Facts { revision: 1_000, ..empty() }), "older than any change");
    }

    #[test]
    fn changes_are_named_up_to_a_number_and_who_was_away_goes_on() {
        let facts = changed(empty(), 0..10);
        let mark = Mark::of(&facts);
        let later = changed(facts, 10..10 + 3 * KEPT as u64);
        assert_eq!(later.entries.len(), KEPT);
        assert!(mark.goes_on_in(&later) && !mark.is_up_to_date(&later));
        assert!(Mark::of(&later).is_up_to_date(&later));
    }

    #[test]
    fn two_changes_at_the_same_time_are_two() {
        let before = changed(empty(), [1]);
        let (mut both, other) = (changed(before.clone(), [9]), changed(before, [8]));
        let one = Mark::of(&both);
        both.entries.extend(other.entries);
        let mark = Mark::of(&both);
        assert!(one.goes_on_in(&both));
        assert_eq!(both.entries.len(), 3);
        let mut copy = both.clone();
        copy.entries.retain(|name, _| !name.ends_with('8'));
        assert!(!mark.goes_on_in(&copy));
    }
}
