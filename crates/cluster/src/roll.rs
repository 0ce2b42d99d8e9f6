//! Who is there: what this node knows of the others at one time, so that a job that needed all of them can
//! tell whether one was lost meanwhile.
//!
//! A peer that was passed by for a while and is the same process still has what it was given. One that is
//! down, left or began anew may have lost it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::placement::NodeId;

/// Peers greeted at once: each may take its time, and a call is to last as long as one of them.
const GREETED_AT_ONCE: usize = 64;

/// What was lost is named up to here; the rest is counted.
const NAMED_MAX: usize = 3;

/// The processes that have answered at an address, one after another.
#[derive(Debug, Default)]
pub(crate) struct Lives(Mutex<Life>);

#[derive(Debug, Default, Clone, Copy)]
struct Life {
    /// That of the last one.
    instance: Option<u64>,
    /// How often it was another one than before.
    restarts: u64,
}

impl Lives {
    /// A process has answered.
    pub(crate) fn met(&self, instance: u64) {
        let mut life = self.0.lock();
        if life.instance.replace(instance).is_some_and(|before| before != instance) {
            life.restarts += 1;
        }
    }
}

/// How another node fares. The counters only mean something beside those of another time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fate {
    address: Arc<str>,
    is_down: bool,
    instance: Option<u64>,
    restarts: u64,
    /// How often it was passed by.
    falls: u64,
}

/// The other members at one time. Two that are equal: nobody came, left, was away or began anew between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roll {
    epoch: u64,
    departures: u64,
    others: BTreeMap<NodeId, Fate>,
}

impl Roll {
    /// Who is not passed by, and the process that answers there.
    pub fn up(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let up = self.others.iter().filter(|(_, fate)| !fate.is_down);
        up.filter_map(|(node, fate)| Some((*node, fate.instance?)))
    }

    /// In words, who may have lost what it was given since `earlier`, or between; `None`: nobody.
    #[must_use]
    pub fn lost_since(&self, earlier: &Self) -> Option<String> {
        let mut lost = Vec::new();
        for (node, fate) in &self.others {
            let before = earlier.others.get(node);
            if fate.restarts != before.map_or(0, |before| before.restarts) {
                lost.push(format!("{} began anew", fate.address));
            } else if fate.is_down
                && before.is_none_or(|before| !before.is_down || before.falls != fate.falls)
            {
                lost.push(format!("{} is down", fate.address));
            }
        }
        let left = earlier.others.iter().filter(|(node, _)| !self.others.contains_key(node));
        lost.extend(left.map(|(_, fate)| format!("{} left", fate.address)));
        if lost.is_empty() && self.departures != earlier.departures {
            lost.push("a node came and went".to_owned());
        }
        if NAMED_MAX < lost.len() {
            let more = format!("and {} more", lost.len() - NAMED_MAX);
            lost.truncate(NAMED_MAX);
            lost.push(more);
        }
        (!lost.is_empty()).then(|| lost.join(", "))
    }
}

impl Cluster {
    /// Who is there now: every member that is not passed by is greeted first, so that one that died
    /// while nobody asked it anything is found out. Takes 3 s at most for each 64 of those.
    pub async fn roll_call(&self) -> Roll {
        let Some(joined) = self.link().joined() else { return Roll::default() };
        let epoch = joined.membership.current();
        let peers = epoch.members().iter().filter_map(|member| joined.peers.of(&member.address));
        let up: Vec<_> = peers.filter(|peer| !peer.health.is_gone()).collect();
        let greeted = stream::iter(up).for_each_concurrent(GREETED_AT_ONCE, |peer| async move {
            if let Err(fault) = peer.greet().await {
                peer.note(&fault);
            }
        });
        greeted.await;
        let epoch = joined.membership.current();
        let others = epoch.members().iter().filter(|member| member.node != joined.me);
        let others = others.map(|member| {
            let peer = joined.peers.of(&member.address);
            let life = peer.as_ref().map(|peer| *peer.lives.0.lock()).unwrap_or_default();
            let fate = Fate {
                address: Arc::clone(&member.address),
                is_down: peer.as_ref().is_none_or(|peer| peer.health.is_gone()),
                instance: life.instance,
                restarts: life.restarts,
                falls: peer.as_ref().map_or(0, |peer| peer.health.falls()),
            };
            (member.node, fate)
        });
        Roll { epoch: epoch.number(), departures: epoch.departures(), others: others.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(address: &str) -> Fate {
        let address = address.into();
        Fate { address, is_down: false, instance: Some(1), restarts: 0, falls: 0 }
    }

    fn roll(others: &[(u64, Fate)]) -> Roll {
        let others = others.iter().map(|(node, fate)| (NodeId(*node), fate.clone()));
        Roll { epoch: 3, departures: 0, others: others.collect() }
    }

    #[test]
    fn who_is_down_left_or_began_anew_is_lost() {
        let before = roll(&[(1, fate("a")), (2, fate("b")), (3, fate("c"))]);
        assert_eq!(before.lost_since(&before), None);
        let down = Fate { is_down: true, falls: 1, ..fate("b") };
        let anew = Fate { instance: Some(2), restarts: 1, falls: 1, ..fate("c") };
        let after = roll(&[(2, down.clone()), (3, anew)]);
        let lost = after.lost_since(&before);
        assert_eq!(lost.as_deref(), Some("b is down, c began anew, a left"));
        assert_eq!(after.up().collect::<Vec<_>>(), [(NodeId(3), 2)]);
        // It stays down: nothing was given to it in between.
        assert_eq!(after.lost_since(&after), None);
        let again = Fate { falls: 2, ..down };
        let came_between = roll(&[(2, again)]);
        let lost = came_between.lost_since(&roll(&[(2, fate("b"))]));
        assert_eq!(lost.as_deref(), Some("b is down"));
    }

    #[test]
    fn who_came_or_was_away_for_a_while_is_not_lost_but_seen() {
        let before = roll(&[(1, fate("a"))]);
        let away = roll(&[(1, Fate { falls: 1, ..fate("a") })]);
        let more = roll(&[(1, fate("a")), (2, fate("b"))]);
        for after in [away, more] {
            assert_eq!(after.lost_since(&before), None);
            assert_ne!(after, before);
        }
    }

    #[test]
    fn who_came_and_is_gone_again_is_lost_without_a_name() {
        let before = roll(&[(1, fate("a"))]);
        let after = Roll { epoch: 5, departures: 1, ..before.clone() };
        assert_eq!(after.lost_since(&before).as_deref(), Some("a node came and went"));
        let died = roll(&[(1, fate("a")), (2, Fate { is_down: true, falls: 1, ..fate("b") })]);
        assert_eq!(died.lost_since(&before).as_deref(), Some("b is down"));
    }

    #[test]
    fn a_few_are_named_and_the_rest_counted() {
        let before: Vec<_> = (0..9).map(|node| (node, fate(&node.to_string()))).collect();
        let lost = roll(&[]).lost_since(&roll(&before));
        assert_eq!(lost.as_deref(), Some("0 left, 1 left, 2 left, and 6 more"));
    }

    #[test]
    fn another_process_at_an_address_is_a_restart() {
        let lives = Lives::default();
        for instance in [7, 7, 8, 8, 9] {
            lives.met(instance);
        }
        let life = *lives.0.lock();
        assert_eq!((life.instance, life.restarts), (Some(9), 2));
    }
}
