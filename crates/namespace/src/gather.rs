//! Collects what listings say of one directory and turns it into a [`Listing`], by the rule of
//! [`crate::rules`]. Delimited and flat listings both come through here, so that the same bucket
//! gives the same tree either way.

use std::collections::HashSet;

use feedline_model::{Directory, DirectoryBuilder, SourceId, Version};

use crate::mounts::Place;
use crate::rules::{HiddenCounts, HiddenReason, check_part, wants_example};

/// A complete directory, and what it does not show.
#[derive(Debug)]
pub(crate) struct DirectoryListing {
    pub(crate) directory: Directory,
    pub(crate) hidden: HiddenCounts,
    pub(crate) examples: Vec<(HiddenReason, String)>,
}

/// One directory under construction.
#[derive(Debug)]
pub(crate) struct Gather {
    path: String,
    place: Place,
    builder: DirectoryBuilder,
    hidden: HiddenCounts,
    examples: Vec<(HiddenReason, String)>,
    /// Names already counted as hidden: a flat listing meets them once for each key below.
    hidden_names: HashSet<Box<str>>,
    /// Directories already added, in a flat listing.
    directories: HashSet<Box<str>>,
    /// The store knows at least one key below, shown or not: the directory exists.
    any: bool,
}

impl Gather {
    pub(crate) fn new(path: String, place: Place) -> Self {
        Self {
            path,
            place,
            builder: DirectoryBuilder::new(),
            hidden: HiddenCounts::default(),
            examples: Vec::new(),
            hidden_names: HashSet::new(),
            directories: HashSet::new(),
            any: false,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn hide(&mut self, reason: HiddenReason, name: &str) {
        self.hidden[reason as usize] += 1;
        if wants_example(self.examples.len()) {
            self.examples.push((reason, format!("{}{name}", self.place.key_prefix)));
        }
    }

    fn hide_once(&mut self, reason: HiddenReason, name: &str) {
        if self.hidden_names.insert(name.into()) {
            self.hide(reason, name);
        }
    }

    /// Adds the object whose key is the directory's prefix and `name`; `""` is the marker.
    pub(crate) fn object(&mut self, name: &str, version: Version) {
        self.any = true;
        if name.is_empty() {
            self.hide(HiddenReason::DirectoryMarker, name);
        } else if let Err(reason) = check_part(self.path.len(), name) {
            self.hide_once(reason, name);
        } else if self.place.children.iter().any(|child| child.name == name) {
            self.hide_once(HiddenReason::ShadowedByMount, name);
        } else {
            self.builder.file(name, version);
        }
    }

    /// Adds a directory below. False if it cannot be shown: nothing below it can.
    pub(crate) fn directory(&mut self, name: &str) -> bool {
        self.any = true;
        if let Err(reason) = check_part(self.path.len(), name) {
            self.hide_once(reason, &format!("{name}/"));
            return false;
        }
        if self.place.children.iter().any(|child| child.mounted && child.name == name) {
            self.hide_once(HiddenReason::ShadowedByMount, &format!("{name}/"));
            return false;
        }
        self.builder.directory(name);
        true
    }

    /// Like [`Gather::directory`], for a listing that meets a directory once for each key below.
    pub(crate) fn directory_seen(&mut self, name: &str) -> bool {
        if self.directories.contains(name) {
            return true;
        }
        let shown = self.directory(name);
        if shown {
            self.directories.insert(name.into());
        }
        shown
    }

    /// The complete directory; `None` if nothing says that it exists.
    pub(crate) fn seal(
        mut self,
        source: SourceId,
        listed_ms: u64,
        ttl_ms: u64,
    ) -> Option<DirectoryListing> {
        if !self.any && !self.place.is_root && self.place.children.is_empty() {
            return None;
        }
        for child in &self.place.children {
            self.builder.directory(&child.name);
        }
        let builder = std::mem::take(&mut self.builder);
        let origin = Some((source, self.place.key_prefix.as_str().into()));
        let (mut directory, shadowed) = builder.build(&self.path, origin, listed_ms, ttl_ms);
        for name in shadowed {
            self.hide_once(HiddenReason::ShadowedByDirectory, &name);
        }
        directory.is_whole = self.hidden == HiddenCounts::default();
        Some(DirectoryListing { directory, hidden: self.hidden, examples: self.examples })
    }
}
