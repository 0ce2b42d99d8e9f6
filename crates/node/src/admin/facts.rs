//! Pins as facts of the cluster: in etcd for all nodes, with a copy in this node's directory.
//!
//! etcd has the last word while it is the one that this node knows: what is not there any more was unpinned. One of
//! another generation, or set back to an earlier revision, has lost something: then this node puts back what it
//! knows, and both together count. So a pin may come back after such a loss, and none is lost by it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use feedline_cluster::{Change, Etcd, Facts};
use feedline_gateway::ApiError;
use feedline_gateway::api::Usage;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::NodeAdmin;
use super::question::Place;
use crate::files;

/// Where pins stand among the facts.
const PINS: &str = "pins/";

/// The file of a [`Mark`], beside the list of pins.
const MARK: &str = "facts.json";

/// What stays as it is in the name of a fact, for people who look into etcd.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Changes at once at most: etcd takes 128 as it is delivered.
const CHANGES_MAX: usize = 100;

/// The pause before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Which etcd this node has heard last, and up to where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    generation: String,
    revision: i64,
}

impl Mark {
    /// None, or a damaged one, is that of an etcd that was never heard: then nothing is unpinned.
    fn read(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        files::replace(file, &text, true)
    }

    /// True if these facts hold all that was heard before.
    fn goes_on_in(&self, facts: &Facts) -> bool {
        self.generation == facts.generation && self.revision <= facts.revision
    }
}

/// What has been done of the facts.
struct Followed {
    file: PathBuf,
    mark: Mark,
    /// The pins of that time.
    pins: Option<BTreeSet<String>>,
    /// The operator has been told that etcd does not take what this node knows.
    is_warned: bool,
}

/// What a pin is to people who look into etcd; nodes go by the name.
#[derive(Debug, Serialize)]
struct Note {
    /// Who wrote it.
    node: String,
    since_ms: u64,
}

/// The name of the fact that a place is pinned.
fn fact_name(place: &Place) -> String {
    format!("{PINS}{:016x}/{}", place.source, utf8_percent_encode(&place.key, ENCODED))
}

/// The place that a fact is about, from its name below [`PINS`].
fn place_of(name: &str) -> Option<Place> {
    let (source, key) = name.split_once('/')?;
    let source = u64::from_str_radix(source, 16).ok()?;
    let key = percent_decode_str(key).decode_utf8().ok()?.into_owned();
    Some(Place { source, key })
}

/// What unpins a place and all below it.
fn removal(place: &Place) -> Vec<Change> {
    let name = fact_name(place);
    if place.key.is_empty() {
        return vec![Change::RemoveBelow(name)];
    }
    vec![Change::RemoveBelow(format!("{name}/")), Change::Remove(name)]
}

impl NodeAdmin {
    /// Pins or unpins in etcd. False: there is none to be told.
    pub(super) async fn note_pins(&self, places: &[Place], on: bool) -> Result<bool, ApiError> {
        let Some(etcd) = self.chain.etcd.get() else {
            if on {
                self.forget_mark()?;
            }
            return Ok(false);
        };
        let changes: Vec<_> = if on {
            places.iter().map(|place| self.addition(place)).collect()
        } else {
            places.iter().flat_map(removal).collect()
        };
        self.change_facts(etcd, &changes).await.map_err(|why| {
            let verb = if on { "pinned" } else { "unpinned" };
            let done = if on { "pin" } else { "unpin" };
            ApiError::unavailable(format!(
                "etcd did not confirm it ({why}), and pins of the cluster are kept there so that every node knows \
                 them: nothing is {verb} now, unless etcd took it and its answer was lost; try again when `feedline status` shows that etcd is heard, or use \
                 `{done} --node-only` for this node alone"
            ))
        })?;
        Ok(true)
    }

    /// A node that runs without etcd for once pins what etcd does not know: that is put there later, not unpinned.
    fn forget_mark(&self) -> Result<(), ApiError> {
        let file = self.shared_pins.beside(MARK);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ApiError::internal(format!("{}: {error}", file.display())))
            }
            _ => Ok(()),
        }
    }

    fn addition(&self, place: &Place) -> Change {
        let node = self.chain.cluster.get().map(|cluster| cluster.status().node.to_string());
        let note = Note { node: node.unwrap_or_default(), since_ms: self.clock.unix_ms() };
        Change::Put(fact_name(place), serde_json::to_vec(&note).expect("plain data"))
    }

    async fn change_facts(&self, etcd: &Etcd, changes: &[Change]) -> Result<(), String> {
        for some in changes.chunks(CHANGES_MAX) {
            etcd.change_facts(some).await?;
        }
        Ok(())
    }

    /// Takes back the pins of a path on this node alone: those that are the cluster's are not this node's to take back.
    pub(super) async fn unpin_here(&self, path: &str) -> Result<Usage, ApiError> {
        if self.chain.etcd.get().is_some()
            && (self.shared_pins.any_below(path) || self.shared_pins.covering(path).is_some())
        {
            return Err(ApiError::bad_request(format!(
                "/{path} is pinned in the whole cluster: unpin it without --node-only"
            )));
        }
        self.unpin_below(path).await
    }

    /// Hears of the facts, if there is an etcd, and does what they say.
    pub(crate) fn follow_facts(self: &Arc<Self>, tasks: &Handle) {
        let Some(etcd) = self.chain.etcd.get().cloned() else { return };
        let file = self.shared_pins.beside(MARK);
        let mut followed = Followed { mark: Mark::read(&file), file, pins: None, is_warned: false };
        let (weak, clock) = (Arc::downgrade(self), Arc::clone(&self.clock));
        let (mut stop, mut heard) = (self.stop.subscribe(), etcd.facts());
        drop(tasks.spawn(async move {
            loop {
                let facts = heard.borrow_and_update().clone();
                let is_done = match weak.upgrade() {
                    Some(admin) => admin.take_pins(&etcd, &facts, &mut followed).await,
                    None => return,
                };
                tokio::select! {
                    changed = heard.changed() => if changed.is_err() { return },
                    () = clock.sleep(AGAIN), if !is_done => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }));
    }

    /// Has the pins that etcd has. False: to be tried again.
    async fn take_pins(&self, etcd: &Etcd, facts: &Facts, followed: &mut Followed) -> bool {
        if facts.trouble.is_some() {
            return true;
        }
        let goes_on = followed.mark.goes_on_in(facts);
        let names: BTreeSet<_> = facts.below(PINS).map(|(name, _)| name.to_owned()).collect();
        if goes_on && followed.pins.as_ref() == Some(&names) {
            return true;
        }
        let mounted = self.mounted_places();
        let places = names.iter().filter_map(|name| place_of(name));
        let mut wanted: BTreeSet<_> = places.flat_map(|place| place.paths(&mounted)).collect();
        let mut is_done = goes_on || self.put_pins_back(etcd, &names, followed).await;
        if !goes_on {
            wanted.extend(self.shared_pins.paths());
        }
        is_done &= self.take_shared_pins(&wanted).await;
        if is_done {
            let mark = Mark { generation: facts.generation.clone(), revision: facts.revision };
            if let Err(error) = mark.write(&followed.file) {
                tracing::warn!(%error, "{} cannot be written", followed.file.display());
                is_done = false;
            }
            (followed.mark, followed.pins) = (mark, Some(names));
        }
        is_done
    }

    /// Tells an etcd that does not know them of this node's pins.
    async fn put_pins_back(
        &self,
        etcd: &Etcd,
        names: &BTreeSet<String>,
        followed: &mut Followed,
    ) -> bool {
        let (mounted, own) = (self.mounted_places(), self.shared_pins.paths());
        let places = own.iter().flat_map(|path| Place::of_path(path, &mounted));
        let is_new = |place: &Place| {
            let name = fact_name(place);
            !names.contains(name.strip_prefix(PINS).unwrap_or(&name))
        };
        let changes: Vec<_> = places.filter(is_new).map(|place| self.addition(&place)).collect();
        if !changes.is_empty() {
            if let Err(why) = self.change_facts(etcd, &changes).await {
                if !std::mem::replace(&mut followed.is_warned, true) {
                    tracing::warn!("etcd does not take the pins that this node knows: {why}");
                }
                return false;
            }
            tracing::info!(pins = changes.len(), "etcd has the pins that this node knows");
        }
        followed.is_warned = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_the_name_of_its_fact_whatever_it_is_called() {
        for key in ["", "train", "a/b c/ü", "100%", "a\nb", "%2f/..", "*?#[]"] {
            let place = Place { source: 0xa1, key: key.into() };
            let name = fact_name(&place);
            assert!(name.is_ascii() && !name.contains(char::is_whitespace), "{name}");
            assert_eq!(place_of(name.strip_prefix(PINS).unwrap()), Some(place), "{name}");
        }
        assert_eq!(place_of("nonsense"), None);
        assert_eq!(place_of("a1/%ff"), None);
    }

    #[test]
    fn what_unpins_a_place_reaches_what_is_below_it_and_no_neighbour() {
        let place = |key: &str| Place { source: 1, key: key.into() };
        let Change::RemoveBelow(below) = &removal(&place("train"))[0] else { panic!() };
        assert!(fact_name(&place("train/a")).starts_with(below));
        assert!(!fact_name(&place("train-2")).starts_with(below));
        let Change::RemoveBelow(below) = &removal(&place(""))[0] else { panic!() };
        assert!(fact_name(&place("train")).starts_with(below));
        assert!(!fact_name(&Place { source: 2, key: "train".into() }).starts_with(below));
    }

    #[test]
    fn facts_go_on_only_in_the_same_etcd_that_was_not_set_back() {
        let mark = Mark { generation: "a".into(), revision: 5 };
        let facts = |generation: &str, revision| Facts {
            generation: generation.into(),
            revision,
            ..Facts::default()
        };
        assert!(mark.goes_on_in(&facts("a", 5)) && mark.goes_on_in(&facts("a", 6)));
        assert!(!mark.goes_on_in(&facts("a", 4)) && !mark.goes_on_in(&facts("b", 9)));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("facts.json");
        assert_eq!(Mark::read(&file), Mark::default());
        mark.write(&file).unwrap();
        assert_eq!(Mark::read(&file), mark);
    }
}
