//! Many small objects in few requests: for whoever fetches ahead and need not have them one by one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use feedline_model::{Object, ObjectId, Priority};

use crate::fault::Fault;
use crate::link::{Joined, Link};
use crate::marks::Mark;
use crate::pace::Signs;
use crate::peer::Peer;
use crate::placement::owner_among;
use crate::wire::{ITEM_BYTES_MAX, ITEMS_MAX, Item, ReadRequest};

/// Bytes of one request at most, beyond its first item: what a stream may have on its way.
const REQUEST_BYTES_MAX: u64 = 8 << 20;

/// What one peer is asked for at once.
#[derive(Default)]
struct Batch {
    places: Vec<usize>,
    items: Vec<Item>,
    lengths: Vec<u64>,
    marks: Vec<Mark>,
    bytes: u64,
}

impl Link {
    /// Reads these ranges from the nodes that own the objects, one request for up to 256 of them, the
    /// owners side by side. `took` gets the place and the bytes of each as it comes. Returns the places of
    /// those that did not come, in no order: what this node owns, what nobody gave. They are to be
    /// [read](feedline_model::BlockSource::read) one by one.
    pub async fn read_many(
        &self,
        wanted: &[(Object, Range<u64>)],
        priority: Priority,
        took: impl Fn(usize, Bytes) + Sync,
    ) -> Vec<usize> {
        let Some(joined) = self.joined() else { return (0..wanted.len()).collect() };
        let (batches, mut left) = joined.batches(wanted);
        let asked = batches.into_iter().map(|(peer, batch)| {
            let took = &took;
            async move { joined.read_batch(&peer, batch, priority, took).await }
        });
        futures::future::join_all(asked).await.into_iter().for_each(|places| left.extend(places));
        left
    }
}

impl Joined {
    /// What to ask whom for, and the places of what nobody is to be asked for.
    fn batches(&self, wanted: &[(Object, Range<u64>)]) -> (Vec<(Arc<Peer>, Batch)>, Vec<usize>) {
        let epoch = self.membership.current();
        let mut left = Vec::new();
        let mut open: BTreeMap<u64, (Arc<Peer>, Batch)> = BTreeMap::new();
        let mut full = Vec::new();
        for (place, (object, range)) in wanted.iter().enumerate() {
            let id = object.id();
            let length = range.end.saturating_sub(range.start);
            let owner = owner_among(&id, epoch.weights(), |node| self.is_up(&epoch, node));
            let peer = owner.filter(|owner| *owner != self.me);
            let peer = peer.and_then(|owner| Some((owner.0, self.peer(&epoch, owner)?)));
            let fits = 0 < length && length <= ITEM_BYTES_MAX;
            let (Some((node, peer)), true) = (peer, fits) else {
                left.push(place);
                continue;
            };
            let Some(mark) = self.marks.ask(id) else {
                left.push(place);
                continue;
            };
            let (_, batch) = open.entry(node).or_insert_with(|| (peer, Batch::default()));
            batch.add(place, object, &id, range, mark);
            if batch.is_full() {
                full.extend(open.remove(&node));
            }
        }
        full.extend(open.into_values());
        (full, left)
    }

    /// Asks one peer. Returns the places of what did not come.
    async fn read_batch(
        &self,
        peer: &Peer,
        batch: Batch,
        priority: Priority,
        took: &(impl Fn(usize, Bytes) + Sync),
    ) -> Vec<usize> {
        let Batch { places, items, lengths, marks: _marks, .. } = batch;
        let mut missing: Vec<bool> = vec![true; places.len()];
        let demand = priority == Priority::Demand;
        let request = ReadRequest { demand, only_cached: false, items };
        let asked = async {
            let signs = Signs::default();
            let mut answer = peer.ask(&request, lengths, &signs).await?;
            while let Some((at, given)) = answer.next(&signs).await? {
                match given {
                    Ok(bytes) => {
                        missing[at] = false;
                        peer.counters.objects.fetch_add(1, Ordering::Relaxed);
                        peer.counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        self.count(&bytes);
                        took(places[at], bytes);
                    }
                    Err(fault) => peer.note(&fault),
                }
            }
            Ok::<_, Fault>(())
        };
        if let Err(fault) = asked.await {
            peer.note(&fault);
        }
        places.into_iter().zip(missing).filter(|(_, missing)| *missing).map(|(at, _)| at).collect()
    }
}

impl Batch {
    fn add(
        &mut self,
        place: usize,
        object: &Object,
        id: &ObjectId,
        range: &Range<u64>,
        mark: Mark,
    ) {
        let length = range.end - range.start;
        self.places.push(place);
        self.items.push(Item::new(object, id, range));
        self.lengths.push(length);
        self.marks.push(mark);
        self.bytes += length;
    }

    fn is_full(&self) -> bool {
        self.items.len() == ITEMS_MAX || REQUEST_BYTES_MAX <= self.bytes
    }
}
