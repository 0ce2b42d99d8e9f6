//! What etcd holds for all nodes beside the members: small facts by name, the same for everybody.
//!
//! They lie beneath `/feedline/CLUSTER/facts/`, without a lease: who wrote one may go. Each node has all of them
//! in memory, as its session with etcd (`etcd`) heard them last, and writes only while there is one.
//!
//! # Invariants
//!
//! - What is heard is whole: all facts of one revision of etcd, and of one generation.
//! - A write that is not confirmed is an error; nothing is written later.
//!
//! # Deliberately absent
//!
//! - No meaning: the node says what is in a fact, and what a lost one means.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Event, EventType, GetOptions, KeyValue, Txn, TxnOp,
};
use tokio::sync::watch;

use crate::etcd::Etcd;

/// More than this many are not written: every node has all of them in memory, and one answer of etcd holds them all.
const FACTS_MAX: usize = 10_000;

/// So many are heard: nodes that write at the same time do not count each other's, and what makes room may need
/// a few of its own first.
const HEARD_MAX: usize = FACTS_MAX + 1_000;

/// Bytes of a fact's name and value at most: three times the longest name of a file, and as much again.
const FACT_BYTES_MAX: usize = 8 << 10;

/// Bytes of all of them together, as etcd may answer; usual ones take a part of a hundred of it.
const ANSWER_BYTES_MAX: usize = HEARD_MAX * FACT_BYTES_MAX;

/// The fact that is there from the first node on.
const GENERATION: &str = "generation";

/// What is the matter before the first session.
const NOT_HEARD: &str = "it was not asked yet";

/// What ends a session in which the generation goes.
const LOST: &str = "it lost its data; what this node knows is put back";

/// All facts, as they were heard last.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Drawn by the first node that found nothing. Another one than before: etcd lost what it held.
    pub generation: String,
    /// Of etcd; it never goes back, unless etcd was set back to what it was earlier.
    pub revision: i64,
    /// By name.
    pub entries: BTreeMap<String, Arc<[u8]>>,
    /// Why they cannot be heard now; `None`: all is well.
    pub trouble: Option<String>,
    /// The trouble is that there are too many: what makes room is taken all the same.
    pub is_overfull: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            generation: String::new(),
            revision: 0,
            entries: BTreeMap::new(),
            trouble: Some(NOT_HEARD.into()),
            is_overfull: false,
        }
    }
}

impl Facts {
    /// Those whose names begin so, without that beginning.
    pub fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let named = self.entries.range(folder.to_owned()..);
        let named = named.map_while(move |(name, value)| Some((name.strip_prefix(folder)?, value)));
        named.map(|(name, value)| (name, &**value))
    }

    /// Why such changes are not even sent, if so.
    fn refuses(&self, changes: &[Change], prefix: &str) -> Option<String> {
        let (mut new, mut removals) = (0, 0);
        for change in changes {
            match change {
                Change::Put(name, value) if FACT_BYTES_MAX < name.len() + value.len() => {
                    return Some(format!("a fact of more than {FACT_BYTES_MAX} bytes"));
                }
                Change::Put(name, _) => new += usize::from(!self.entries.contains_key(name)),
                Change::Remove(_) | Change::RemoveBelow(_) => removals += 1,
            }
        }
        // Else who takes something away, and notes that he did, could not when it is wanted most.
        let makes_room = 0 < removals && new <= removals;
        if let Some(why) = &self.trouble {
            return (!self.is_overfull || !makes_room).then(|| why.clone());
        }
        let held = self.entries.len();
        (0 < new && !makes_room && FACTS_MAX < held + new)
            .then(|| format!("{prefix} holds {held} keys, and takes no more than {FACTS_MAX}"))
    }

    /// Takes what was heard up to this revision.
    fn take(&mut self, events: Events, revision: i64, prefix: &str) {
        self.revision = self.revision.max(revision);
        for Heard { name, value, .. } in events {
            match value {
                Some(_) if HEARD_MAX <= self.entries.len() && !self.entries.contains_key(&name) => {
                    (self.trouble, self.is_overfull) = (Some(overfull(prefix)), true);
                }
                Some(value) => drop(self.entries.insert(name, value)),
                None => drop(self.entries.remove(&name)),
            }
        }
    }
}

fn overfull(prefix: &str) -> String {
    format!("{prefix} holds more than {HEARD_MAX} keys: remove some (`feedline unpin` does)")
}

/// A change of the facts. Names are of plain characters; who has others writes them in such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This one is so now.
    Put(String, Vec<u8>),
    /// This one is no more.
    Remove(String),
    /// All whose names begin so are no more.
    RemoveBelow(String),
}

/// What a session hears of one fact.
#[derive(Debug)]
pub(crate) struct Heard {
    name: String,
    /// `None`: it is no more.
    value: Option<Arc<[u8]>>,
    revision: i64,
}

/// What a session hears of facts; nothing of it is told before it is whole.
pub(crate) type Events = Vec<Heard>;

impl Etcd {
    /// The facts as they are heard.
    #[must_use]
    pub fn facts(&self) -> watch::Receiver<Arc<Facts>> {
        self.facts.subscribe()
    }

    /// Changes facts, all of these or none.
    ///
    /// # Errors
    ///
    /// Why etcd did not confirm it, in a sentence. After a silence it may have happened all the same.
    pub async fn change_facts(&self, changes: &[Change]) -> Result<(), String> {
        let known = self.facts.borrow().clone();
        let prefix = self.facts_prefix();
        if let Some(why) = known.refuses(changes, &prefix) {
            return Err(why);
        }
        let client = self.client.lock().clone();
        let Some(mut client) = client else { return Err(NOT_HEARD.into()) };
        let operation = |change: &Change| match change {
            Change::Put(name, value) => TxnOp::put(format!("{prefix}{name}"), value.clone(), None),
            Change::Remove(name) => TxnOp::delete(format!("{prefix}{name}"), None),
            Change::RemoveBelow(folder) => {
                let all = DeleteOptions::new().with_prefix();
                TxnOp::delete(format!("{prefix}{folder}"), Some(all))
            }
        };
        let operations: Vec<_> = changes.iter().map(operation).collect();
        // One that lost its data, or was another's, is to be heard first.
        let generation = format!("{prefix}{GENERATION}");
        let is_same = Compare::value(generation, CompareOp::Equal, known.generation.as_str());
        let change = Txn::new().when([is_same]).and_then(operations);
        let done = self.ask(client.txn(change)).await?;
        if done.succeeded() { Ok(()) } else { Err("it has just lost its data".into()) }
    }

    pub(crate) fn facts_prefix(&self) -> String {
        format!("/feedline/{}/facts/", self.cluster)
    }

    /// Sees to it that there is a generation. `drawn` is taken if there is none.
    pub(crate) async fn begin_facts(&self, client: &mut Client, drawn: &str) -> Result<(), String> {
        let key = format!("{}{GENERATION}", self.facts_prefix());
        let is_absent = Compare::create_revision(key.as_str(), CompareOp::Equal, 0);
        let begin = Txn::new().when([is_absent]).and_then([TxnOp::put(key.as_str(), drawn, None)]);
        self.ask(client.txn(begin)).await.map(|_| ())
    }

    /// Hears all facts as they are at this revision, or now. That it cannot is told by them: members are heard
    /// all the same.
    ///
    /// # Errors
    ///
    /// That there is no generation: the next session begins one.
    pub(crate) async fn hear_facts(
        &self,
        client: &mut Client,
        revision: Option<i64>,
    ) -> Result<(), String> {
        let listed = self.list_facts(client, revision).await;
        *self.client.lock() = Some(client.clone());
        match listed {
            Ok(facts) if facts.generation.is_empty() => return Err(LOST.into()),
            Ok(facts) => drop(self.facts.send_replace(Arc::new(facts))),
            Err(why) => self.facts.send_modify(|facts| {
                let facts = Arc::make_mut(facts);
                let why = format!("{} cannot be listed: {why}", self.facts_prefix());
                (facts.trouble, facts.is_overfull) = (Some(why), false);
            }),
        }
        Ok(())
    }

    async fn list_facts(
        &self,
        client: &mut Client,
        revision: Option<i64>,
    ) -> Result<Facts, String> {
        let prefix = self.facts_prefix();
        // And the generation, and one that is too many.
        let limit = i64::try_from(HEARD_MAX + 2).expect("some thousands");
        let mut all = GetOptions::new().with_prefix().with_limit(limit);
        if let Some(revision) = revision {
            all = all.with_revision(revision);
        }
        let mut reader = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let listed = self.ask(reader.get(prefix.as_str(), Some(all))).await?;
        let now = listed.header().map_or(0, etcd_client::ResponseHeader::revision);
        let named = |kv: &KeyValue| Some((fact_name(kv, &prefix)?, fact_value(kv)));
        let mut entries: BTreeMap<_, _> = listed.kvs().iter().filter_map(named).collect();
        let mut generation = entries.remove(GENERATION);
        let is_overfull = HEARD_MAX < entries.len() || listed.more();
        if is_overfull {
            // A part of them is none. What was known before is as good as it was.
            entries.clone_from(&self.facts.borrow().entries);
            let alone = self.ask(client.get(format!("{prefix}{GENERATION}"), None)).await?;
            generation = alone.kvs().first().map(fact_value);
        }
        let generation = String::from_utf8_lossy(&generation.unwrap_or_default()).into_owned();
        let trouble = is_overfull.then(|| overfull(&prefix));
        let revision = revision.unwrap_or(now);
        Ok(Facts { generation, revision, entries, trouble, is_overfull })
    }

    /// True if a session goes on that could not hear them.
    pub(crate) fn are_facts_in_trouble(&self) -> bool {
        self.facts.borrow().trouble.is_some()
    }

    /// Keeps an event, if it is about a fact.
    pub(crate) fn note_fact(&self, event: &Event, events: &mut Events) {
        let Some(kv) = event.kv() else { return };
        if let Some(name) = fact_name(kv, &self.facts_prefix()) {
            let value = (event.event_type() == EventType::Put).then(|| fact_value(kv));
            events.push(Heard { name, value, revision: kv.mod_revision() });
        }
    }

    /// Tells of what was heard up to this revision. True: they are in trouble, and something was removed, so
    /// that it may be over.
    pub(crate) fn take_facts(&self, mut events: Events, revision: i64) -> Result<bool, String> {
        let known = self.facts.borrow().clone();
        if known.trouble.is_none() {
            // They may have been listed again meanwhile.
            events.retain(|event| known.revision < event.revision);
        }
        if events.iter().any(|event| event.name == GENERATION) {
            // The session after this one begins with what is there then.
            return Err(LOST.into());
        }
        if known.trouble.is_some() {
            return Ok(events.iter().any(|event| event.value.is_none()));
        }
        drop(known);
        if !events.is_empty() {
            let prefix = self.facts_prefix();
            self.facts.send_modify(|facts| Arc::make_mut(facts).take(events, revision, &prefix));
        }
        Ok(false)
    }

    /// They are as they were, and cannot be heard.
    pub(crate) fn lose_facts(&self, why: &str) {
        *self.client.lock() = None;
        self.facts.send_modify(|facts| {
            let facts = Arc::make_mut(facts);
            (facts.trouble, facts.is_overfull) = (Some(why.to_owned()), false);
        });
    }
}

/// The name of a fact; `None`: it is none, or nobody's who writes names as we do.
fn fact_name(kv: &KeyValue, prefix: &str) -> Option<String> {
    name_of(kv.key(), prefix)
}

fn name_of(key: &[u8], prefix: &str) -> Option<String> {
    let name = key.strip_prefix(prefix.as_bytes()).filter(|name| name.len() <= FACT_BYTES_MAX)?;
    std::str::from_utf8(name).ok().map(str::to_owned)
}

/// Its value. Larger ones than we write are somebody else's, and held by nobody.
fn fact_value(kv: &KeyValue) -> Arc<[u8]> {
    Arc::from(if kv.value().len() <= FACT_BYTES_MAX { kv.value() } else { &[] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_below_a_folder_are_those_whose_names_begin_so() {
        let names = ["pins", "pins/a", "pins/b/c", "pinsel", "loads/x"];
        let entries = names.map(|name| (name.to_owned(), Arc::from(name.as_bytes())));
        let facts = Facts { entries: entries.into(), ..Facts::default() };
        let below: Vec<_> = facts.below("pins/").map(|(name, _)| name).collect();
        assert_eq!(below, ["a", "b/c"]);
        assert_eq!(facts.below("x/").count(), 0);
        assert_eq!(name_of(b"/f/x/facts/pins/a", "/f/x/facts/").as_deref(), Some("pins/a"));
        assert_eq!(name_of(b"/f/x/facts/\xff", "/f/x/facts/"), None);
        assert_eq!(name_of(b"/f/x/members/1", "/f/x/facts/"), None);
    }

    fn held(names: impl Iterator<Item = String>) -> Facts {
        let entries = names.map(|name| (name, Arc::from(&b"x"[..]))).collect();
        Facts { entries, trouble: None, ..Facts::default() }
    }

    fn heard(name: &str, value: Option<&str>, revision: i64) -> Heard {
        let value = value.map(|value| Arc::from(value.as_bytes()));
        Heard { name: name.into(), value, revision }
    }

    #[test]
    fn the_last_fact_that_fits_is_written_and_what_makes_room_always() {
        let put = |name: &str| Change::Put(name.into(), Vec::new());
        let refused = |facts: &Facts, changes: &[Change]| facts.refuses(changes, "/f/");
        let facts = held((1..FACTS_MAX).map(|at| format!("{at:05}")));
        assert_eq!(refused(&facts, &[put("a")]), None);
        let said = refused(&facts, &[put("a"), put("b")]).expect("all of one change count");
        assert!(said.contains("no more than 10000"), "{said}");
        let mut facts = held((0..FACTS_MAX).map(|at| format!("{at:05}")));
        assert!(refused(&facts, &[put("a")]).is_some());
        assert_eq!(refused(&facts, &[put("00001")]), None, "it is there already");
        let removal = [put("note"), Change::RemoveBelow("0".into())];
        assert_eq!(refused(&facts, &removal), None);
        // A removal is no way around it.
        let many = [put("a"), put("b"), Change::Remove("c".into())];
        assert!(refused(&facts, &many).is_some());
        // By others' hands there are more than are heard.
        (facts.trouble, facts.is_overfull) = (Some("too many".into()), true);
        assert_eq!(refused(&facts, &removal), None);
        assert_eq!(refused(&facts, &[put("00001")]).as_deref(), Some("too many"));
        facts.is_overfull = false;
        assert_eq!(refused(&facts, &removal).as_deref(), Some("too many"));
        let large = [Change::Put("a".into(), vec![0; FACT_BYTES_MAX])];
        assert!(refused(&held(std::iter::empty()), &large).unwrap().contains("bytes"));
    }

    #[test]
    fn what_is_there_is_changed_at_the_limit_too_and_one_more_is_trouble() {
        let mut facts = held((0..HEARD_MAX).map(|at| format!("{at:05}")));
        facts.take(vec![heard("00007", Some("new"), 5)], 5, "/f/");
        assert_eq!((&*facts.entries["00007"], facts.revision), (&b"new"[..], 5));
        assert_eq!(facts.trouble, None);
        facts.take(vec![heard("00007", None, 6), heard("a", Some("x"), 6)], 6, "/f/");
        assert_eq!((facts.entries.len(), &facts.trouble), (HEARD_MAX, &None));
        facts.take(vec![heard("b", Some("x"), 7)], 7, "/f/");
        assert!(facts.is_overfull && facts.trouble.unwrap().contains("remove some"));
    }
}
