//! Pins as facts of the cluster: in etcd for all nodes, with a copy in this node's directory.
//!
//! etcd has the last word while it is the one that this node knows: what is not there any more was unpinned. One that
//! has lost something (`history`) has not: then this node puts back what it knows, and both together count. So a pin
//! may come back after such a loss, and none is lost by it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use feedline_cluster::{Change, Etcd, Facts};
use feedline_gateway::ApiError;
use feedline_gateway::api::Usage;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use tokio::runtime::Handle;

use super::NodeAdmin;
use super::history::{Mark, one_more};
use super::question::Place;
use crate::cluster;
use crate::pins::{self, Pins};

/// Where pins stand among the facts.
const PINS: &str = "pins/";

/// The file of a [`Mark`], beside the list of pins.
const MARK: &str = "facts.json";

/// The file of the paths that were pinned while this node ran without the etcd that it knows.
const UNNOTED: &str = "unnoted-pins.json";

/// What stays as it is in the name of a fact, for people who look into etcd.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// Changes at once at most: etcd takes 128 as it is delivered, and what names them goes along.
const CHANGES_MAX: usize = 100;

/// The pause before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How often the list is compared with etcd though nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long what etcd has confirmed may take to be heard from it: moments, unless it falls silent.
const HEARD_WITHIN: Duration = Duration::from_secs(4);

/// What has been done of the facts.
struct Followed {
    file: PathBuf,
    mark: Mark,
    /// See [`UNNOTED`].
    unnoted: Pins,
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
    let place = Place { source, key };
    // One that is written otherwise would not be found by who unpins it.
    (fact_name(&place).strip_prefix(PINS) == Some(name)).then_some(place)
}

/// What pins these places; each once, though it may be mounted twice.
fn additions(places: impl IntoIterator<Item = Place>, note: &Note) -> Vec<Change> {
    let note = serde_json::to_vec(note).expect("plain data");
    let names: BTreeSet<_> = places.into_iter().map(|place| fact_name(&place)).collect();
    names.into_iter().map(|name| Change::Put(name, note.clone())).collect()
}

/// True if a place, or something below it, is pinned in etcd.
fn any_below(facts: &Facts, place: &Place) -> bool {
    let holds = |change: Change| match change {
        Change::Remove(name) => facts.entries.contains_key(&name),
        Change::RemoveBelow(folder) => facts.below(&folder).next().is_some(),
        Change::Put(..) => false,
    };
    removal(place).into_iter().any(holds)
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
            self.keep_for_etcd(places, on)?;
            return Ok(false);
        };
        let changes: Vec<_> = if on {
            additions(places.iter().cloned(), &self.note())
        } else {
            places.iter().flat_map(removal).collect()
        };
        self.change_pins_in(etcd, &changes).await.map_err(|why| {
            let (verb, here) = if on {
                ("pinned", "use `pin --node-only` for this node alone")
            } else {
                ("unpinned", "`unpin --node-only` takes back what was pinned on this node alone")
            };
            ApiError::unavailable(format!(
                "etcd did not confirm it ({why}), and pins of the cluster are kept there so that every node knows \
                 them: nothing is {verb} now, unless etcd took it and its answer was lost; try again when \
                 `feedline status` shows that etcd is heard; {here}"
            ))
        })?;
        self.hear_of_pins(places, on).await;
        Ok(true)
    }

    /// Waits a moment until this node has heard what stands in etcd: else it would go on with an earlier word.
    pub(super) async fn hear_of_pins(&self, places: &[Place], on: bool) {
        let Some(etcd) = self.chain.etcd.get() else { return };
        let is_so = |facts: &Facts, place: &Place| {
            if on {
                facts.entries.contains_key(&fact_name(place))
            } else {
                !any_below(facts, place)
            }
        };
        let mut heard = etcd.facts();
        let heard = heard.wait_for(|facts| {
            facts.trouble.is_some() || places.iter().all(|place| is_so(facts, place))
        });
        tokio::select! {
            _ = heard => {}
            () = self.clock.sleep(HEARD_WITHIN) => {}
        }
    }

    /// True if etcd pins one of these places, or something below.
    pub(super) fn is_noted(&self, places: &[Place]) -> bool {
        let facts = self.chain.etcd.get().map(|etcd| etcd.facts().borrow().clone());
        facts.is_some_and(|facts| places.iter().any(|place| any_below(&facts, place)))
    }

    /// A node that runs without its etcd for once pins what that does not know: it is put there later, not unpinned.
    fn keep_for_etcd(&self, places: &[Place], on: bool) -> Result<(), ApiError> {
        if !Mark::read(&self.shared_pins.beside(MARK)).is_of_any() {
            // Who never heard one will tell it all.
            return Ok(());
        }
        let mounted = self.mounted_places();
        let mut paths = places.iter().flat_map(|place| place.paths(&mounted));
        let kept = Pins::open(self.shared_pins.beside(UNNOTED)).and_then(|unnoted| {
            paths.try_for_each(|path| if on { unnoted.add(&path) } else { unnoted.remove(&path) })
        });
        kept.map_err(|error| ApiError::internal(error.to_string()))
    }

    fn note(&self) -> Note {
        let node = self.chain.cluster.get().map(|cluster| cluster.status().node.to_string());
        Note { node: node.unwrap_or_default(), since_ms: self.clock.unix_ms() }
    }

    async fn change_pins_in(&self, etcd: &Etcd, changes: &[Change]) -> Result<(), String> {
        for some in changes.chunks(CHANGES_MAX) {
            let named = one_more(&etcd.facts().borrow().clone(), cluster::random_number());
            etcd.change_facts(&[some, &named].concat()).await?;
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
        self.unpin_below(path, false).await
    }

    /// Hears of the facts, if there is an etcd, and does what they say.
    pub(crate) fn follow_facts(self: &Arc<Self>, tasks: &Handle) {
        let Some(etcd) = self.chain.etcd.get().cloned() else { return };
        let mut followed = match self.followed() {
            Ok(followed) => followed,
            Err(error) => return tracing::error!("pins of the cluster are not followed: {error}"),
        };
        let (weak, clock) = (Arc::downgrade(self), Arc::clone(&self.clock));
        let (mut stop, mut heard) = (self.stop.subscribe(), etcd.facts());
        drop(tasks.spawn(async move {
            loop {
                let facts = heard.borrow_and_update().clone();
                let is_done = match weak.upgrade() {
                    Some(admin) => admin.take_pins(&etcd, &facts, &mut followed).await,
                    None => return,
                };
                let pause = if is_done { LOOK_EVERY } else { AGAIN };
                tokio::select! {
                    changed = heard.changed() => if changed.is_err() { return },
                    () = clock.sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }));
    }

    /// What was done in earlier runs.
    fn followed(&self) -> std::io::Result<Followed> {
        let file = self.shared_pins.beside(MARK);
        let unnoted = Pins::open(self.shared_pins.beside(UNNOTED))?;
        Ok(Followed { mark: Mark::read(&file), file, unnoted, is_warned: false })
    }

    /// Has the pins that etcd has. False: to be tried again.
    async fn take_pins(&self, etcd: &Etcd, facts: &Arc<Facts>, followed: &mut Followed) -> bool {
        if facts.trouble.is_some() {
            return true;
        }
        let goes_on = followed.mark.goes_on_in(facts);
        let back = if goes_on {
            let mut unnoted = followed.unnoted.paths();
            unnoted.retain(|path| self.shared_pins.covering(path).is_some());
            unnoted
        } else {
            self.shared_pins.paths()
        };
        let mounted = self.mounted_places();
        let places = facts.below(PINS).filter_map(|(name, _)| place_of(name));
        let paths = places.flat_map(|place| place.paths(&mounted));
        let wanted = pins::outermost(paths.chain(back.iter().cloned()));
        let is_known = goes_on && back.is_empty() && followed.mark.is_up_to_date(facts);
        if is_known && self.shared_pins.are(&wanted) {
            return true;
        }
        let is_last_word = || Arc::ptr_eq(&etcd.facts().borrow(), facts);
        let is_told = self.put_pins_back(etcd, facts, &back, followed).await;
        self.take_shared_pins(&wanted, is_last_word).await
            && is_told
            && Self::remember(facts, followed)
    }

    /// Writes down that all of this is done.
    fn remember(facts: &Facts, followed: &mut Followed) -> bool {
        let mark = Mark::of(facts);
        let mut written = mark.write(&followed.file);
        if written.is_ok() && !followed.unnoted.paths().is_empty() {
            written = followed.unnoted.remove("");
        }
        if let Err(error) = written {
            tracing::warn!(%error, "{} cannot be written", followed.file.display());
            return false;
        }
        followed.mark = mark;
        true
    }

    /// Tells an etcd that does not know them of these pins.
    async fn put_pins_back(
        &self,
        etcd: &Etcd,
        facts: &Facts,
        paths: &[String],
        followed: &mut Followed,
    ) -> bool {
        let mounted = self.mounted_places();
        let places = paths.iter().flat_map(|path| Place::of_path(path, &mounted));
        let is_new = |place: &Place| !facts.entries.contains_key(&fact_name(place));
        let places: Vec<_> = places.filter(is_new).collect();
        if !places.is_empty() {
            let changes = additions(places.iter().cloned(), &self.note());
            if let Err(why) = self.change_pins_in(etcd, &changes).await {
                if !std::mem::replace(&mut followed.is_warned, true) {
                    tracing::warn!("etcd does not take the pins that this node knows: {why}");
                }
                return false;
            }
            tracing::info!(pins = changes.len(), "etcd has the pins that this node knows");
            self.hear_of_pins(&places, true).await;
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
        assert_eq!(place_of("00000000000000a1/%ff"), None);
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
    fn a_place_that_is_mounted_twice_is_named_once() {
        let mounted =
            [(String::new(), 7, "data/".to_owned()), ("again".to_owned(), 7, "data/".to_owned())];
        let places = Place::of_path("", &mounted);
        assert_eq!(places.len(), 2);
        let note = Note { node: "n".into(), since_ms: 1 };
        assert_eq!(additions(places, &note).len(), 1, "etcd takes no key twice in one transaction");
    }

    #[test]
    fn a_name_that_is_written_in_another_way_is_none() {
        for name in ["00000000000000a1/a b", "A1/a", "00000000000000A1/a", "00000000000000a1/%61"] {
            assert_eq!(place_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_pinned_below_a_place_is_found_and_its_neighbours_are_not() {
        let place = |key: &str| Place { source: 1, key: key.into() };
        let names = ["train", "val/a", "val-2"].map(|key| fact_name(&place(key)));
        let entries = names.map(|name| (name, Arc::from(&b""[..]))).into();
        let facts = Facts { entries, ..Facts::default() };
        assert!(["train", "val", "val/a", ""].iter().all(|key| any_below(&facts, &place(key))));
        assert!(
            ["trai", "train/a", "val/b", "x"].iter().all(|key| !any_below(&facts, &place(key)))
        );
    }
}
