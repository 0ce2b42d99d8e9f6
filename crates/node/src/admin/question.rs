//! What nodes ask each other, as it crosses the wire, and what they say to it.

use feedline_gateway::api::{LoadStatus, NodeSummary};
use feedline_model::ObjectId;
use serde::{Deserialize, Serialize};

/// Objects in one question at most: of each 35 bytes go and 30 come, within what a question and an answer may be.
pub(super) const IDS_MAX: usize = 8_192;

/// A question. Objects are named by their ids as the asking node's listing has them, so that both mean the
/// same versions, and the other node lists nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Question {
    /// How it does.
    Status,
    /// Which of these it holds.
    Held { ids: Vec<String> },
    /// To drop these, but for what is pinned or in use there, and to fetch nothing below these places ahead until
    /// somebody reads there again.
    Free {
        ids: Vec<String>,
        /// An older version names none.
        #[serde(default)]
        places: Vec<Place>,
    },
    /// To read back those of these that it has.
    Check { ids: Vec<String> },
    /// To keep what it owns below these places, from now on.
    Pin {
        places: Vec<Place>,
        /// It stands in etcd already.
        #[serde(default)]
        noted: bool,
    },
    /// To take that back.
    Unpin {
        places: Vec<Place>,
        /// As with `Pin`.
        #[serde(default)]
        noted: bool,
    },
    /// To list what lies at these places.
    List { places: Vec<Place> },
    /// How a load job of its stands.
    Load { id: String },
    /// To stop one.
    StopLoad { id: String },
    /// To try again what one could not cache.
    RetryLoad { id: String },
    /// Asked by a newer version.
    #[serde(other)]
    Unknown,
}

/// A folder or file of a bucket: nodes may have it at different places of their trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The bucket.
    pub(super) source: u64,
    /// The key, without a slash at its end; empty is the whole bucket.
    pub(super) key: String,
}

/// What is said to a question of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub(super) enum Told {
    Status {
        summary: Box<NodeSummary>,
    },
    /// Only what is there.
    Held {
        held: Vec<Held>,
    },
    Freed {
        files: u64,
        bytes: u64,
        pinned: u64,
    },
    /// Places in the question of those that were bad, and dropped.
    Checked {
        files: u64,
        bytes: u64,
        corrupt: Vec<u32>,
    },
    /// Files that it keeps now, and how many bytes of them are there.
    Kept {
        files: u64,
        bytes: u64,
    },
    /// Files that it lists now, and their bytes.
    Listed {
        files: u64,
        bytes: u64,
    },
    /// How the job stands.
    Load {
        job: Box<LoadStatus>,
    },
    /// It could not, and why.
    Failed {
        message: String,
    },
    /// Said by a newer version.
    #[serde(other)]
    Unknown,
}

/// One object that is there: its place in the question, bytes, and 1 if complete, 2 if pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held(pub(super) u32, pub(super) u64, pub(super) u8);

impl Held {
    pub(super) fn is_complete(self) -> bool {
        self.2 & 1 != 0
    }

    pub(super) fn is_pinned(self) -> bool {
        self.2 & 2 != 0
    }
}

/// Ids as they are written in a question.
pub(super) fn ids_as_text<'a>(ids: impl IntoIterator<Item = &'a ObjectId>) -> Vec<String> {
    ids.into_iter().map(ToString::to_string).collect()
}

/// Ids as they were written; `None` if one is none, or there are too many.
pub(super) fn ids_of_text(ids: &[String]) -> Option<Vec<ObjectId>> {
    let id = |text: &String| {
        let digits = (text.len() == 32).then_some(text.as_str())?;
        let number = u128::from_str_radix(digits, 16).ok()?;
        Some(ObjectId(number.to_be_bytes()))
    };
    (ids.len() <= IDS_MAX).then(|| ids.iter().map(id).collect())?
}

impl Place {
    /// Where a path of the tree lies in its bucket, or all that is mounted below it.
    pub(super) fn of_path(path: &str, mounted: &[(String, u64, String)]) -> Vec<Self> {
        let place = |source: u64, key: &str| Self { source, key: key.trim_end_matches('/').into() };
        let inner = mounted.iter().filter_map(|(at, source, prefix)| {
            Some((at.len(), place(*source, &format!("{prefix}{}", below(at, path)?))))
        });
        let own = inner.max_by_key(|(length, _)| *length).map(|(_, place)| place);
        // Buckets that are mounted below it, the path's own aside.
        let under = mounted.iter().filter(|(at, ..)| at != path && below(path, at).is_some());
        let under = under.map(|(_, source, prefix)| place(*source, prefix));
        own.into_iter().chain(under).collect()
    }

    /// Where it is in a tree; empty if it is not mounted there.
    pub(super) fn paths(&self, mounted: &[(String, u64, String)]) -> Vec<String> {
        let of = |(at, source, prefix): &(String, u64, String)| {
            let whole = prefix.trim_end_matches('/');
            if *source != self.source {
                None
            } else if let Some(rest) = below(whole, &self.key) {
                let parts = [at.as_str(), rest];
                let parts = parts.into_iter().filter(|part| !part.is_empty());
                Some(parts.collect::<Vec<_>>().join("/"))
            } else {
                // Only a part of it is mounted.
                below(&self.key, whole).map(|_| at.clone())
            }
        };
        mounted.iter().filter_map(of).collect()
    }
}

/// What is left of a path below another; empty if they are the same.
fn below<'a>(above: &str, path: &'a str) -> Option<&'a str> {
    match path.strip_prefix(above)? {
        rest if above.is_empty() || rest.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were_written() {
        let ids: Vec<_> = (0..3_u8).map(|at| ObjectId([at * 97; 16])).collect();
        assert_eq!(ids_of_text(&ids_as_text(&ids)), Some(ids.clone()));
        assert_eq!(ids_of_text(&["x".repeat(32)]), None);
        assert_eq!(ids_of_text(&["0".repeat(31)]), None);
        let many = vec![ids_as_text(&ids)[0].clone(); IDS_MAX + 1];
        assert_eq!(ids_of_text(&many), None);
    }

    #[test]
    fn what_a_newer_version_asks_or_says_is_known_as_such() {
        let question: Question = serde_json::from_str(r#"{"ask":"sing","song":1}"#).unwrap();
        assert_eq!(question, Question::Unknown);
        // And what an older one asks with fewer words.
        let question: Question = serde_json::from_str(r#"{"ask":"free","ids":[]}"#).unwrap();
        assert_eq!(question, Question::Free { ids: Vec::new(), places: Vec::new() });
        let told: Told = serde_json::from_str(r#"{"told":"sung"}"#).unwrap();
        assert_eq!(told, Told::Unknown);
    }

    #[test]
    fn a_path_is_the_same_place_on_nodes_that_mount_it_elsewhere() {
        let one = [(String::new(), 7, "data/".to_owned())];
        let other = [("a".to_owned(), 8, String::new()), ("b/c".to_owned(), 7, String::new())];
        let deep = [("d".to_owned(), 7, "data/train/".to_owned())];
        let place = Place::of_path("train/x", &one);
        assert_eq!(place, [Place { source: 7, key: "data/train/x".into() }]);
        assert_eq!(place[0].paths(&one), ["train/x"]);
        assert_eq!(place[0].paths(&other), ["b/c/data/train/x"]);
        assert_eq!(place[0].paths(&deep), ["d/x"]);
        // The root of the one holds all that the other has of it.
        let root = Place::of_path("", &one);
        assert_eq!(root, [Place { source: 7, key: "data".into() }]);
        assert_eq!(root[0].paths(&deep), ["d"]);
        // A folder above two buckets is both.
        assert_eq!(Place::of_path("", &other).len(), 2);
        assert_eq!(Place::of_path("b", &other), [Place { source: 7, key: String::new() }]);
        assert_eq!(Place { source: 7, key: "database".into() }.paths(&one), [""; 0]);
    }
}
