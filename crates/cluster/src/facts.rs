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
    Client, Compare, CompareOp, DeleteOptions, Event, EventType, GetOptions, Txn, TxnOp,
};
use tokio::sync::watch;

use crate::etcd::Etcd;

/// More than this many are not taken: every node has all of them in memory, and one answer of etcd holds them all.
const FACTS_MAX: usize = 10_000;

/// Bytes of a fact's name and value at most: three times the longest name of a file, and as much again.
const FACT_BYTES_MAX: usize = 8 << 10;

/// Bytes of all of them together, as etcd may answer; usual ones take a part of a hundred of it.
const ANSWER_BYTES_MAX: usize = FACTS_MAX * FACT_BYTES_MAX;

/// The fact that is there from the first node on.
const GENERATION: &str = "generation";

/// What is the matter before the first session.
const NOT_HEARD: &str = "it was not asked yet";

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
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            generation: String::new(),
            revision: 0,
            entries: BTreeMap::new(),
            trouble: Some(NOT_HEARD.into()),
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

/// What a session hears of facts; nothing of it is told before it is whole.
pub(crate) type Events = Vec<(String, Option<Arc<[u8]>>)>;

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
        if let Some(why) = &known.trouble {
            return Err(why.clone());
        }
        let client = self.client.lock().clone();
        let Some(mut client) = client else { return Err(NOT_HEARD.into()) };
        let prefix = self.facts_prefix();
        let mut operations = Vec::new();
        for change in changes {
            operations.push(match change {
                Change::Put(name, value) => {
                    let is_new = !known.entries.contains_key(name);
                    if is_new && FACTS_MAX <= known.entries.len() {
                        return Err(format!("{prefix} holds {FACTS_MAX} keys, and takes no more"));
                    }
                    if FACT_BYTES_MAX < name.len() + value.len() {
                        return Err(format!("a fact of more than {FACT_BYTES_MAX} bytes"));
                    }
                    TxnOp::put(format!("{prefix}{name}"), value.clone(), None)
                }
                Change::Remove(name) => TxnOp::delete(format!("{prefix}{name}"), None),
                Change::RemoveBelow(folder) => {
                    let all = DeleteOptions::new().with_prefix();
                    TxnOp::delete(format!("{prefix}{folder}"), Some(all))
                }
            });
        }
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

    /// Hears all facts as they are at this revision.
    pub(crate) async fn hear_facts(
        &self,
        client: &mut Client,
        revision: i64,
    ) -> Result<(), String> {
        let prefix = self.facts_prefix();
        let limit = i64::try_from(FACTS_MAX + 1).expect("some thousands");
        let all = GetOptions::new().with_prefix().with_revision(revision).with_limit(limit);
        let mut reader = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let listed = self.ask(reader.get(prefix.as_str(), Some(all))).await?;
        let mut entries = BTreeMap::new();
        for kv in listed.kvs() {
            if let Some(name) = fact_name(kv.key(), &prefix) {
                entries.insert(name, Arc::from(kv.value()));
            }
        }
        // Members are heard all the same.
        let trouble = (FACTS_MAX < listed.kvs().len())
            .then(|| format!("{prefix} holds more than {FACTS_MAX} keys: remove some"));
        let generation = entries.remove(GENERATION).unwrap_or_default();
        let generation = String::from_utf8_lossy(&generation).into_owned();
        if trouble.is_some() {
            entries.clear();
        }
        *self.client.lock() = Some(client.clone());
        self.facts.send_replace(Arc::new(Facts { generation, revision, entries, trouble }));
        Ok(())
    }

    /// Keeps an event, if it is about a fact.
    pub(crate) fn note_fact(&self, event: &Event, events: &mut Events) {
        let Some(kv) = event.kv() else { return };
        if let Some(name) = fact_name(kv.key(), &self.facts_prefix()) {
            let is_there = event.event_type() == EventType::Put;
            events.push((name, is_there.then(|| Arc::from(kv.value()))));
        }
    }

    /// Tells of what was heard up to this revision.
    pub(crate) fn take_facts(&self, events: Events, revision: i64) -> Result<(), String> {
        if events.iter().any(|(name, _)| name == GENERATION) {
            // The session after this one begins with what is there then.
            return Err("it lost its data; what this node knows is put back".into());
        }
        if events.is_empty() {
            return Ok(());
        }
        self.facts.send_if_modified(|facts| {
            if facts.trouble.is_some() {
                return false;
            }
            let facts = Arc::make_mut(facts);
            facts.revision = facts.revision.max(revision);
            for (name, value) in events {
                match value {
                    Some(value) if facts.entries.len() < FACTS_MAX => {
                        facts.entries.insert(name, value);
                    }
                    Some(_) => {}
                    None => drop(facts.entries.remove(&name)),
                }
            }
            true
        });
        Ok(())
    }

    /// They are as they were, and cannot be heard.
    pub(crate) fn lose_facts(&self, why: &str) {
        *self.client.lock() = None;
        self.facts.send_modify(|facts| Arc::make_mut(facts).trouble = Some(why.to_owned()));
    }
}

/// The name of a fact; `None`: it is none, or nobody's who writes names as we do.
fn fact_name(key: &[u8], prefix: &str) -> Option<String> {
    let name = key.strip_prefix(prefix.as_bytes())?;
    std::str::from_utf8(name).ok().map(str::to_owned)
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
        assert_eq!(fact_name(b"/f/x/facts/pins/a", "/f/x/facts/").as_deref(), Some("pins/a"));
        assert_eq!(fact_name(b"/f/x/facts/\xff", "/f/x/facts/"), None);
        assert_eq!(fact_name(b"/f/x/members/1", "/f/x/facts/"), None);
    }
}
