//! Which keys can be shown as a path, and what happens to the others.
//!
//! The rule: **a key is shown if every part between slashes is a valid file name and nothing else
//! needs that name as a directory; otherwise it is not shown, but counted by [`HiddenReason`]**,
//! with a few examples kept and the first of each reason logged. The unit of counting is a *name in
//! a directory*: all keys below `a//` are one hidden name of the directory `a`, because a listing
//! folds them into one and never says how many they are.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Longest file name that Linux takes, in bytes (`NAME_MAX`).
pub const PART_BYTES_MAX: usize = 255;
/// Longest path that Linux takes, in bytes (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Examples kept for each reason: enough to see the pattern, little enough for a status page.
const EXAMPLES_PER_REASON: usize = 4;
/// Longest example kept, in characters: a key may have 1,024 bytes.
const EXAMPLE_CHARS_MAX: usize = 160;

/// Why a key is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HiddenReason {
    /// `a//b` or a leading `/`: a part is empty.
    EmptyPart,
    /// A part is `.` or `..`.
    DotPart,
    /// A part holds NUL or another ASCII control character, which store clients cannot fetch.
    ControlCharacter,
    /// A part has over 255 bytes.
    PartTooLong,
    /// The path has over 4,096 bytes.
    PathTooLong,
    /// An object `a` beside objects `a/…`: the directory is shown.
    ShadowedByDirectory,
    /// Another bucket is mounted at this path.
    ShadowedByMount,
    /// A marker `a/`: it makes the directory exist, and is not shown itself.
    DirectoryMarker,
}

impl HiddenReason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::EmptyPart,
        Self::DotPart,
        Self::ControlCharacter,
        Self::PartTooLong,
        Self::PathTooLong,
        Self::ShadowedByDirectory,
        Self::ShadowedByMount,
        Self::DirectoryMarker,
    ];

    /// The name in status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyPart => "empty_part",
            Self::DotPart => "dot_part",
            Self::ControlCharacter => "control_character",
            Self::PartTooLong => "part_too_long",
            Self::PathTooLong => "path_too_long",
            Self::ShadowedByDirectory => "shadowed_by_directory",
            Self::ShadowedByMount => "shadowed_by_mount",
            Self::DirectoryMarker => "directory_marker",
        }
    }
}

/// Hidden names by reason, in the order of [`HiddenReason::ALL`].
pub(crate) type HiddenCounts = [u32; HiddenReason::ALL.len()];

/// Checks one part of a path as a file name in a directory whose path has `parent_bytes` bytes.
pub(crate) fn check_part(parent_bytes: usize, part: &str) -> Result<(), HiddenReason> {
    if part.is_empty() {
        Err(HiddenReason::EmptyPart)
    } else if part == "." || part == ".." {
        Err(HiddenReason::DotPart)
    } else if part.bytes().any(|byte| byte.is_ascii_control()) {
        Err(HiddenReason::ControlCharacter)
    } else if PART_BYTES_MAX < part.len() {
        Err(HiddenReason::PartTooLong)
    } else if PATH_BYTES_MAX < parent_bytes + 1 + part.len() {
        Err(HiddenReason::PathTooLong)
    } else {
        Ok(())
    }
}

/// Checks a whole path of the tree; `""` is valid.
pub(crate) fn check_path(path: &str) -> Result<(), HiddenReason> {
    if path.is_empty() {
        return Ok(());
    }
    if PATH_BYTES_MAX < path.len() {
        return Err(HiddenReason::PathTooLong);
    }
    path.split('/').try_for_each(|part| check_part(0, part))
}

/// Examples of keys not shown; the first of each reason is logged.
#[derive(Debug, Default)]
pub(crate) struct Examples {
    by_reason: Mutex<BTreeMap<HiddenReason, Vec<String>>>,
}

impl Examples {
    /// Keeps the key if there is room, and logs it if it is the first of its reason.
    pub(crate) fn note(&self, reason: HiddenReason, key: &str) {
        let text: String = key.escape_debug().take(EXAMPLE_CHARS_MAX).collect();
        let first = {
            let mut by_reason = self.by_reason.lock();
            let kept = by_reason.entry(reason).or_default();
            if EXAMPLES_PER_REASON <= kept.len() || kept.contains(&text) {
                return;
            }
            kept.push(text.clone());
            kept.len() == 1
        };
        if !first {
            return;
        }
        let reason_name = reason.name();
        if reason == HiddenReason::DirectoryMarker {
            tracing::debug!(key = text, "directory markers are not shown as files");
        } else {
            tracing::warn!(key = text, reason = reason_name, "a key cannot be shown as a path");
        }
    }

    /// `reason: key`, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let by_reason = self.by_reason.lock();
        let of = |(reason, keys): (&HiddenReason, &Vec<String>)| {
            keys.iter().map(|key| format!("{}: {key}", reason.name())).collect::<Vec<_>>()
        };
        by_reason.iter().flat_map(of).collect()
    }
}

/// True if a listing with room for more examples wants this one.
pub(crate) fn wants_example(kept: usize) -> bool {
    kept < EXAMPLES_PER_REASON * HiddenReason::ALL.len()
}
