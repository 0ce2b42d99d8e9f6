//! What one source has said of the members, and what follows from it: whom to greet, whom to give up.
//!
//! # Invariants
//!
//! - While the source cannot be heard, nobody is given up.
//! - Who is no longer listed and still answers stays for a grace period: a directory that lost its
//!   data, or a name server's partial answer, must not take a cluster apart. Who is not listed and does
//!   not answer goes at once. The address at which a node was listed before it moved is one that is not
//!   listed any more: until it answers at the new one, no other is known.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a member that is not listed any more, and answers, stays one. After a loss of the
/// directory's data each node lists itself again within seconds (its pauses between attempts are at
/// most 5 s); this is several times that.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Greetings in a row after which a member that is not listed any more is believed to be gone: one may
/// be lost by chance.
const FAILED_MAX: u32 = 2;

/// Members of one source at most; what is listed beyond is left out. More than 1,000 is unheard of.
pub(crate) const MEMBERS_MAX: usize = 4096;

/// A node as a source lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The same for the same node for as long as it is listed.
    pub key: String,
    /// `HOST:PORT`.
    pub address: String,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Greet it from now on.
    Greet(Arc<str>),
    /// Greet it now: does it still answer?
    Test(Arc<str>),
    /// It is no member any more.
    Drop(Arc<str>),
}

#[derive(Debug)]
struct Entry {
    address: Arc<str>,
    missing_since: Option<Duration>,
}

/// See the module's head. Time is that of the node's clock, monotonic.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<String, Entry>,
    /// Addresses that nodes were listed at before, and since when they are missed: each is greeted once more
    /// than the entries have it.
    moved: BTreeMap<Arc<str>, Option<Duration>>,
}

impl Book {
    /// The whole list as it is now.
    pub(crate) fn all(&mut self, found: Vec<Found>, now: Duration) -> Vec<Step> {
        let listed: HashSet<&str> = found.iter().map(|it| &*it.key).collect();
        let absent = self.entries.keys().filter(|key| !listed.contains(key.as_str()));
        let absent: Vec<String> = absent.cloned().collect();
        let mut steps: Vec<_> = found.into_iter().flat_map(|it| self.here(it, now)).collect();
        steps.extend(absent.iter().flat_map(|key| self.left(key, now)));
        // As after a loss.
        for (address, since) in self.moved.iter_mut().filter(|(_, since)| since.is_none()) {
            *since = Some(now);
            steps.push(Step::Test(Arc::clone(address)));
        }
        steps
    }

    /// One is listed, perhaps elsewhere than before.
    pub(crate) fn here(&mut self, found: Found, now: Duration) -> Vec<Step> {
        let address: Arc<str> = found.address.into();
        let count = self.entries.len();
        match self.entries.get_mut(&found.key) {
            Some(entry) if entry.address == address => {
                entry.missing_since = None;
                Vec::new()
            }
            Some(entry) => {
                let old = std::mem::replace(&mut entry.address, Arc::clone(&address));
                entry.missing_since = None;
                let mut steps = self.greet(address);
                steps.push(self.moved_from(old, now));
                steps
            }
            None if MEMBERS_MAX <= count => {
                tracing::warn!(
                    address = &*address,
                    "more than {MEMBERS_MAX} nodes: it is left out"
                );
                Vec::new()
            }
            None => {
                let entry = Entry { address: Arc::clone(&address), missing_since: None };
                self.entries.insert(found.key, entry);
                self.greet(address)
            }
        }
    }

    /// Greets an address that has just been listed, if it is not greeted as a former one.
    fn greet(&mut self, address: Arc<str>) -> Vec<Step> {
        match self.moved.remove(&address) {
            Some(_) => Vec::new(),
            None => vec![Step::Greet(address)],
        }
    }

    /// Keeps a former address as one that is missed.
    fn moved_from(&mut self, old: Arc<str>, now: Duration) -> Step {
        if self.moved.len() < MEMBERS_MAX && !self.moved.contains_key(&old) {
            self.moved.insert(Arc::clone(&old), Some(now));
            return Step::Test(old);
        }
        Step::Drop(old)
    }

    /// One is listed no more.
    pub(crate) fn left(&mut self, key: &str, now: Duration) -> Vec<Step> {
        match self.entries.get_mut(key) {
            Some(entry) if entry.missing_since.is_none() => {
                entry.missing_since = Some(now);
                vec![Step::Test(Arc::clone(&entry.address))]
            }
            _ => Vec::new(),
        }
    }

    /// The source is not heard any more: what it said last holds, and its next list is a new beginning.
    pub(crate) fn lost(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.missing_since = None);
        self.moved.values_mut().for_each(|since| *since = None);
    }

    /// Gives up who is due; `failed` tells how many greetings of an address failed since it was missed.
    pub(crate) fn due(&mut self, now: Duration, failed: impl Fn(&str) -> u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut stays = |address: &Arc<str>, missing_since: Option<Duration>| {
            let Some(since) = missing_since else { return true };
            let stays = failed(address) < FAILED_MAX && now < since + GRACE;
            if !stays {
                steps.push(Step::Drop(Arc::clone(address)));
            }
            stays
        };
        self.entries.retain(|_, entry| stays(&entry.address, entry.missing_since));
        self.moved.retain(|address, since| stays(address, *since));
        steps
    }

    /// True if somebody is missed, so that time matters.
    pub(crate) fn has_missing(&self) -> bool {
        let mut since = self.entries.values().map(|entry| entry.missing_since);
        since.any(|it| it.is_some()) || self.moved.values().any(Option::is_some)
    }

    /// The nodes that are known.
    pub(crate) fn found(&self) -> Vec<Found> {
        let found = |(key, entry): (&String, &Entry)| Found {
            key: key.clone(),
            address: entry.address.to_string(),
        };
        self.entries.iter().map(found).collect()
    }

    /// How many nodes are known.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn found(key: &str, address: &str) -> Found {
        Found { key: key.into(), address: address.into() }
    }

    fn both() -> Vec<Found> {
        vec![found("1", "a:1"), found("2", "b:1")]
    }

    fn known() -> Book {
        let mut book = Book::default();
        let steps = book.all(both(), s(0));
        assert_eq!(steps, [Step::Greet("a:1".into()), Step::Greet("b:1".into())]);
        book
    }

    #[test]
    fn who_appears_is_greeted_once() {
        let mut book = known();
        assert_eq!(book.all(both(), s(1)), []);
        assert_eq!(book.here(found("2", "b:1"), s(1)), []);
        assert_eq!(book.here(found("3", "c:1"), s(1)), [Step::Greet("c:1".into())]);
        assert_eq!(book.due(s(1000), |_| 9), [], "nobody is missed, whoever fails to answer");
    }

    #[test]
    fn who_vanishes_and_does_not_answer_goes_at_once() {
        let mut book = known();
        assert_eq!(book.left("2", s(10)), [Step::Test("b:1".into())]);
        assert_eq!(book.left("2", s(11)), [], "once");
        assert!(book.has_missing());
        assert_eq!(book.due(s(11), |_| 1), [], "one failure may be chance");
        assert_eq!(book.due(s(11), |_| 2), [Step::Drop("b:1".into())]);
        assert_eq!((book.len(), book.has_missing()), (1, false));
        assert_eq!(book.left("2", s(12)), [], "unknown by now");
        let back = book.here(found("2", "b:1"), s(13));
        assert_eq!(back, [Step::Greet("b:1".into())], "and may come back");
    }

    #[test]
    fn who_vanishes_and_answers_stays_for_the_grace_period() {
        let mut book = known();
        assert_eq!(book.all(vec![], s(10)).len(), 2, "both are tested");
        assert_eq!(book.due(s(39), |_| 0), []);
        assert_eq!(book.here(found("1", "a:1"), s(39)), [], "listed again");
        assert_eq!(book.due(s(40), |_| 0), [Step::Drop("b:1".into())]);
        assert_eq!(book.due(s(400), |_| 0), []);
    }

    #[test]
    fn a_source_that_is_not_heard_changes_nothing_and_its_next_list_begins_anew() {
        let mut book = known();
        book.left("1", s(10));
        book.lost();
        assert_eq!(book.due(s(1000), |_| 9), []);
        // Restarted without its data, it lists who has come back so far.
        assert_eq!(book.all(vec![found("1", "a:1")], s(1000)), [Step::Test("b:1".into())]);
        assert_eq!(book.due(s(1029), |_| 0), []);
        assert_eq!(book.all(both(), s(1029)), []);
        assert_eq!(book.due(s(2000), |_| 0), []);
    }

    #[test]
    fn a_node_that_moved_is_greeted_where_it_is_now_and_where_it_was_as_long_as_it_answers_there() {
        let (greet, test) = (Step::Greet("b:9".into()), Step::Test("b:1".into()));
        let gone = [Step::Drop("b:1".into())];
        let moved = || {
            let mut book = known();
            assert_eq!(book.here(found("2", "b:9"), s(10)), [greet.clone(), test.clone()]);
            assert_eq!((book.len(), book.has_missing()), (2, true));
            assert_eq!(book.due(s(11), |_| 1), [], "one failure may be chance");
            book
        };
        let mut book = moved();
        let old_is_dead = |address: &str| if address == "b:1" { 2 } else { 9 };
        assert_eq!(book.due(s(11), old_is_dead), gone, "the new one may still be starting");
        assert_eq!((book.len(), book.has_missing()), (2, false));
        let mut book = moved();
        let now = vec![found("1", "a:1"), found("2", "b:9")];
        assert_eq!(book.all(now.clone(), s(20)), [], "no news");
        assert_eq!(book.due(s(39), |_| 0), []);
        assert_eq!(book.due(s(40), |_| 0), gone);
        assert_eq!(book.due(s(400), |_| 9), []);
        let mut book = moved();
        book.lost();
        assert_eq!(book.due(s(400), |_| 9), []);
        assert_eq!(book.all(now, s(400)), [test], "and the grace begins anew");
        assert_eq!(book.due(s(430), |_| 0), gone);
    }

    #[test]
    fn greetings_and_ends_of_an_address_add_up_whoever_moves_there() {
        let mut book = known();
        book.here(found("2", "b:9"), s(10));
        let back = book.here(found("2", "b:1"), s(11));
        assert_eq!(back, [Step::Test("b:9".into())], "it was still greeted there");
        // Two nodes at one address, of which each is greeted once; both leave it.
        let to_a = book.here(found("2", "a:1"), s(12));
        assert_eq!(to_a, [Step::Greet("a:1".into()), Step::Test("b:1".into())]);
        assert_eq!(book.here(found("2", "c:1"), s(13)).last(), Some(&Step::Test("a:1".into())));
        assert_eq!(book.here(found("1", "d:1"), s(13)).last(), Some(&Step::Drop("a:1".into())));
        let ends = book.due(s(100), |_| 0);
        assert_eq!(ends, ["a:1", "b:1", "b:9"].map(|it| Step::Drop(it.into())));
    }

    #[test]
    fn there_is_a_limit() {
        let mut book = Book::default();
        let many = (0..MEMBERS_MAX + 9).map(|n| found(&n.to_string(), &format!("a:{n}")));
        assert_eq!(book.all(many.collect(), s(0)).len(), MEMBERS_MAX);
    }
}
