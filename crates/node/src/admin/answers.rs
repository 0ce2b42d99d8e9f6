//! What this node answers to the others, from its own cache and its own list of pins.

use std::sync::Weak;

use async_trait::async_trait;
use feedline_cluster::{Asker, Questions};
use feedline_gateway::ApiError;
use feedline_gateway::api::LoadStatus;
use feedline_model::{ObjectId, ObjectIndex as _};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

use super::question::{Held, Place, Question, Told, ids_of_text};
use super::{CHECKS_AT_ONCE, NodeAdmin, nodes};
use crate::status;

/// Questions that change or read back something, at once; the others wait: each keeps a disk busy.
const AT_ONCE: usize = 8;

/// Said to who asks for more than [`is_for_anybody`] without a proof.
const UNPROVED: &str = "it has neither token nor certificates (insecure), so nobody who asks proves to be a node, and only \
     reading is for everybody: give all nodes the same file token in cluster_secrets, or use --node-only on each";

/// Answers what peers ask. Does not keep the node alive.
#[derive(Debug)]
pub(crate) struct Answers {
    node: Weak<NodeAdmin>,
    room: Semaphore,
}

impl Answers {
    pub(crate) fn new(node: Weak<NodeAdmin>) -> Self {
        Self { node, room: Semaphore::new(AT_ONCE) }
    }
}

#[async_trait]
impl Questions for Answers {
    async fn answer(&self, asker: Asker, question: serde_json::Value) -> Vec<u8> {
        let failed = |message: &str| Told::Failed { message: message.into() };
        let told = match (self.node.upgrade(), serde_json::from_value(question)) {
            (_, Err(error)) => failed(&format!("it makes no sense of the question: {error}")),
            (_, Ok(question)) if asker == Asker::Anybody && !is_for_anybody(&question) => {
                failed(UNPROVED)
            }
            (None, _) => failed("it is stopping"),
            (Some(node), Ok(question)) => {
                // Who only wants to know does not wait for those whose work takes long.
                let is_quick = is_for_anybody(&question);
                let _room = if is_quick { None } else { Some(self.room.acquire().await) };
                node.tell(question).await
            }
        };
        serde_json::to_vec(&told).expect("plain data can be written")
    }
}

/// True for what only wants to know, from memory.
fn is_for_anybody(question: &Question) -> bool {
    match question {
        Question::Status | Question::Held { .. } | Question::Load { .. } | Question::Unknown => {
            true
        }
        Question::Free { .. }
        | Question::Check { .. }
        | Question::List { .. }
        | Question::Pin { .. }
        | Question::Unpin { .. }
        | Question::StopLoad { .. }
        | Question::RetryLoad { .. } => false,
    }
}

fn load(job: Result<LoadStatus, ApiError>) -> Told {
    match job {
        Ok(job) => Told::Load { job: Box::new(job) },
        Err(error) => Told::Failed { message: error.message },
    }
}

/// What became of a part of a check.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Places of the bad ones.
    pub(super) corrupt: Vec<u32>,
}

impl NodeAdmin {
    async fn tell(&self, question: Question) -> Told {
        let nonsense = || Told::Failed { message: "it does not know such objects".into() };
        match question {
            Question::Status => {
                Told::Status { summary: Box::new(nodes::summary(status::of(self))) }
            }
            Question::Held { ids } => match ids_of_text(&ids) {
                Some(ids) => Told::Held { held: self.held(&ids) },
                None => nonsense(),
            },
            Question::Free { ids, places } => match ids_of_text(&ids) {
                Some(ids) => self.free_these(ids, &self.paths_of(&places)).await,
                None => nonsense(),
            },
            Question::Check { ids } => match ids_of_text(&ids) {
                Some(ids) => {
                    let Checked { files, bytes, corrupt } = self.check_these(&ids).await;
                    Told::Checked { files, bytes, corrupt }
                }
                None => nonsense(),
            },
            Question::List { places } => self.list_these(&places).await,
            Question::Pin { places, noted } => self.change_pins(&places, true, noted).await,
            Question::Unpin { places, noted } => self.change_pins(&places, false, noted).await,
            Question::Load { id } => load(self.loads.status(&id)),
            Question::StopLoad { id } => load(self.loads.stop(&id).await),
            Question::RetryLoad { id } => load(self.loads.retry(&id).await),
            Question::Unknown => {
                let version = env!("CARGO_PKG_VERSION");
                let message = format!("it runs {version}, which does not know this question");
                Told::Failed { message }
            }
        }
    }

    /// Which of these are here.
    pub(super) fn held(&self, ids: &[ObjectId]) -> Vec<Held> {
        let cache = &self.chain.cache;
        let held = (0_u32..).zip(ids).filter_map(|(at, id)| {
            let bytes = cache.cached_bytes(id);
            let marks = u8::from(cache.contains(id)) | u8::from(cache.is_pinned(id)) << 1;
            (0 < bytes).then_some(Held(at, bytes, marks))
        });
        held.collect()
    }

    /// Drops these, which lie below these paths; the bytes are those of their content. Every `free` of this node
    /// comes through here: what is dropped and not forgotten by fill is fetched again at once.
    pub(super) async fn free_these(&self, ids: Vec<ObjectId>, paths: &[String]) -> Told {
        paths.iter().for_each(|path| self.chain.fill.forget(path));
        let here = |ids: &[ObjectId]| -> u64 {
            ids.iter().map(|id| self.chain.cache.cached_bytes(id)).sum()
        };
        let before = here(&ids);
        let freed = self.chain.cache.free(ids.clone(), false).await;
        let bytes = before.saturating_sub(here(&ids));
        Told::Freed { files: freed.objects, bytes, pinned: freed.pinned }
    }

    /// Reads back those of these that are here.
    pub(super) async fn check_these(&self, ids: &[ObjectId]) -> Checked {
        let here = (0_u32..).zip(ids.iter().copied());
        let here = here.filter(|(_, id)| 0 < self.chain.cache.cached_bytes(id));
        let checks = here.map(|(at, id)| async move {
            (at, self.chain.cache.check(vec![id], |_| {}).await.progress)
        });
        let mut checks = std::pin::pin!(futures::stream::iter(checks).buffered(CHECKS_AT_ONCE));
        let mut all = Checked::default();
        while let Some((at, progress)) = checks.next().await {
            all.files += progress.files;
            all.bytes += progress.bytes;
            if 0 < progress.corrupt {
                all.corrupt.push(at);
            }
        }
        all
    }

    /// Keeps what lies at these places, as far as they are mounted here and this node owns it, or lets go.
    async fn change_pins(&self, places: &[Place], on: bool, noted: bool) -> Told {
        let paths = self.paths_of(places);
        if paths.is_empty() {
            return Told::Failed { message: "it does not mount this".into() };
        }
        // Who asks has no etcd, or does not know of facts: what only this node knew would not last.
        if noted {
            self.hear_of_pins(places, on).await;
        } else if let Err(error) = self.note_pins(places, on).await {
            return Told::Failed { message: error.message };
        }
        let (mut files, mut bytes) = (0, 0);
        for path in paths {
            let changed =
                if on { self.share_pin(&path).await } else { self.unshare_pin(&path).await };
            match changed {
                Ok((more, size)) => (files, bytes) = (files + more, bytes + size),
                // Its own listing is older, or newer: what comes below the path later is kept as well.
                Err(error) if error.kind == "not_found" => {}
                Err(error) => return Told::Failed { message: error.message },
            }
        }
        Told::Kept { files, bytes }
    }

    /// Where a path lies in the buckets, and all paths of this node's tree that lie there, itself among them.
    pub(super) fn places_of(&self, path: &str) -> (Vec<Place>, Vec<String>) {
        let places = Place::of_path(path, &self.mounted_places());
        let mut paths = self.paths_of(&places);
        paths.push(path.to_owned());
        (places, paths)
    }

    /// Where these places are in this node's tree; empty if they are not mounted here.
    fn paths_of(&self, places: &[Place]) -> Vec<String> {
        let mounted = self.mounted_places();
        places.iter().flat_map(|place| place.paths(&mounted)).collect()
    }

    /// What is mounted here, for [`Place`].
    pub(super) fn mounted_places(&self) -> Vec<(String, u64, String)> {
        self.chain.mounted_places()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn who_has_proved_nothing_changes_nothing_and_hears_what_to_do() {
        let answers = &Answers::new(Weak::new());
        let questions = [
            (json!({"ask": "status"}), true),
            (json!({"ask": "held", "ids": []}), true),
            (json!({"ask": "load", "id": "a"}), true),
            (json!({"ask": "of a newer version"}), true),
            (json!({"ask": "free", "ids": []}), false),
            (json!({"ask": "check", "ids": []}), false),
            (json!({"ask": "list", "places": []}), false),
            (json!({"ask": "pin", "places": []}), false),
            (json!({"ask": "unpin", "places": []}), false),
            (json!({"ask": "stop_load", "id": "a"}), false),
            (json!({"ask": "retry_load", "id": "a"}), false),
        ];
        for (question, is_for_anybody) in questions {
            let told = |asker| {
                let question = question.clone();
                async move { String::from_utf8(answers.answer(asker, question).await).unwrap() }
            };
            // The node has ended: nothing else is said to who is heard.
            assert!(told(Asker::Trusted).await.contains("stopping"), "{question}");
            let said = told(Asker::Anybody).await;
            let (refused, is_heard) = (said.contains("file token"), said.contains("stopping"));
            assert_eq!(
                (refused, is_heard),
                (!is_for_anybody, is_for_anybody),
                "{question}: {said}"
            );
        }
    }
}
