//! Listings: from memory where the tree knows all that is asked for, else a page of the bucket's own.
//!
//! A page begins after a name and is made without anything remembered of the page before it, so that each
//! may come from either side, or from another node.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use feedline_model::{Clock, Directory, ListRequest, ListedObject, ReadError, Tree, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object,
};
use s3s::{S3Result, s3_error};

use super::condition;
use super::find::{Bucket, LISTED_WITHIN, Scope};
use super::memory;

/// S3 never lists more in one page.
const NAMES_MAX: usize = 1000;

/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A page that is asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) prefix: String,
    /// Keys with a slash after the prefix are folded.
    pub(super) is_folded: bool,
    /// Only names after this one.
    pub(super) after: String,
    /// So many names at most.
    pub(super) max: usize,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Object(String, Version),
    Prefix(String),
}

/// A page, in the order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) is_truncated: bool,
}

/// What of an ask concerns one mounted prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// All of it is one folded name.
    Folded(&'a str),
    /// Its keys with this prefix.
    Keys(&'a Scope, &'a str),
}

impl Item {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Prefix(name) => name,
        }
    }
}

impl Ask {
    /// True if a name belongs on this page or one after it. A folded prefix is done when it was the last
    /// name; when the last was a key below it, the keys after that one still fold into it.
    pub(super) fn wants(&self, item: &Item) -> bool {
        match item {
            Item::Object(key, _) => self.after < *key,
            Item::Prefix(prefix) => {
                self.after < *prefix
                    || (self.after.starts_with(prefix.as_str()) && self.after != *prefix)
            }
        }
    }

    /// True if all names that begin with `prefix` are done.
    pub(super) fn is_past(&self, prefix: &str) -> bool {
        prefix < self.after.as_str() && !self.after.starts_with(prefix)
    }

    /// What of it concerns each mounted prefix, in the order of keys.
    pub(super) fn parts<'a>(&'a self, bucket: &'a Bucket) -> Vec<Part<'a>> {
        let part = |scope: &'a Scope| {
            if self.prefix.starts_with(&scope.prefix) {
                return Some(Part::Keys(scope, &self.prefix));
            }
            let below = scope.prefix.strip_prefix(&self.prefix)?;
            match below.find('/').filter(|_| self.is_folded) {
                Some(slash) => Some(Part::Folded(&scope.prefix[..=self.prefix.len() + slash])),
                None => Some(Part::Keys(scope, &scope.prefix)),
            }
        };
        let mut parts: Vec<_> = bucket.scopes.iter().filter_map(part).collect();
        parts.dedup();
        parts
    }
}

impl Page {
    /// Adds what the ask wants. True: there is more than fits.
    pub(super) fn add(&mut self, ask: &Ask, item: Item) -> bool {
        if !ask.wants(&item) {
            return false;
        }
        if self.items.len() == ask.max {
            self.is_truncated = true;
            return true;
        }
        self.items.push(item);
        false
    }

    fn next(&self) -> Option<&str> {
        self.items.last().filter(|_| self.is_truncated).map(Item::name)
    }
}

/// One page. Cost: memory where every folder on it is known, else one LIST for each 1,000 names and
/// mounted prefix.
pub(super) async fn page(
    bucket: &Bucket,
    tree: &dyn Tree,
    clock: &dyn Clock,
    ask: &Ask,
) -> Result<Page, ReadError> {
    if ask.max == 0 {
        return Ok(Page::default());
    }
    if let Some(page) = memory::page(bucket, tree, ask) {
        return Ok(page);
    }
    if learn_folder(bucket, tree, clock, ask).await
        && let Some(page) = memory::page(bucket, tree, ask)
    {
        return Ok(page);
    }
    page_of_bucket(bucket, tree, ask).await
}

/// Has the tree list the one folder that is asked for: the same LIST as a page of the bucket's, after which
/// the pages that follow and the reads cost none. True if it did.
async fn learn_folder(bucket: &Bucket, tree: &dyn Tree, clock: &dyn Clock, ask: &Ask) -> bool {
    let [Part::Keys(scope, prefix)] = ask.parts(bucket)[..] else { return false };
    let Some((folder, _)) = memory::folder_of(scope, prefix).filter(|_| ask.is_folded) else {
        return false;
    };
    // A folder that is known and does not do is not listed again for it.
    if tree.peek(&folder).is_some() {
        return false;
    }
    tokio::select! {
        // An error is that of the bucket's page as well.
        listed = tree.list(&folder) => listed.is_ok(),
        () = clock.sleep(LISTED_WITHIN) => false,
    }
}

async fn page_of_bucket(bucket: &Bucket, tree: &dyn Tree, ask: &Ask) -> Result<Page, ReadError> {
    let mut page = Page::default();
    for part in ask.parts(bucket) {
        let is_full = match part {
            Part::Folded(prefix) => page.add(ask, Item::Prefix(prefix.to_owned())),
            Part::Keys(_, prefix) if ask.is_past(prefix) => false,
            Part::Keys(scope, prefix) => {
                list_keys(bucket, tree, ask, scope, prefix, &mut page).await?
            }
        };
        if is_full {
            break;
        }
    }
    Ok(page)
}

/// Lists until the page is full or the keys are at an end. True: full.
async fn list_keys(
    bucket: &Bucket,
    tree: &dyn Tree,
    ask: &Ask,
    scope: &Scope,
    prefix: &str,
    page: &mut Page,
) -> Result<bool, ReadError> {
    let after = (prefix < ask.after.as_str()).then(|| ask.after.clone());
    let prefix = prefix.to_owned();
    let mut request = ListRequest { prefix, delimiter: ask.is_folded, after, token: None };
    loop {
        let listed = bucket.lister.list(&request).await?;
        notice(tree, scope, &listed.objects);
        let objects = listed.objects.into_iter().map(|it| Item::Object(it.key, it.version));
        let prefixes = listed.prefixes.into_iter().map(Item::Prefix);
        let mut items: Vec<_> = objects.chain(prefixes).collect();
        items.sort_by(|a, b| a.name().cmp(b.name()));
        if items.into_iter().any(|item| page.add(ask, item)) {
            return Ok(true);
        }
        match listed.next {
            None => return Ok(false),
            Some(next) => request = ListRequest { after: None, token: Some(next), ..request },
        }
    }
}

/// Reads follow listings: what the bucket has just listed, the next read must not miss. Folders that the
/// tree knows otherwise are listed again before they are believed.
fn notice(tree: &dyn Tree, scope: &Scope, objects: &[ListedObject]) {
    let mut last: Option<(String, Option<Arc<Directory>>)> = None;
    for listed in objects {
        let Some((folder, name)) = scope.place(&listed.key) else { continue };
        if last.as_ref().is_none_or(|(path, _)| *path != folder) {
            let known = tree.peek(&folder);
            last = Some((folder, known));
        }
        let Some((folder, Some(known))) = &last else { continue };
        let version = known.find(name).and_then(|index| known.version(index));
        let is_same = match version {
            Some(version) => version.to_version() == listed.version,
            None => !known.is_whole,
        };
        if !is_same {
            tree.expire(folder);
            last = last.map(|(folder, _)| (folder, None));
        }
    }
}

/// The size of a page, from what a client may say of it.
fn names_max(said: Option<i32>) -> S3Result<usize> {
    let max = usize::try_from(said.unwrap_or(1000));
    max.map(|max| max.min(NAMES_MAX))
        .map_err(|_| s3_error!(InvalidArgument, "max-keys is negative"))
}

fn is_folded(delimiter: Option<&str>) -> S3Result<bool> {
    match delimiter {
        None | Some("") => Ok(false),
        Some("/") => Ok(true),
        Some(_) => Err(s3_error!(NotImplemented, "delimiter: only / is")),
    }
}

fn check_encoding(encoding: Option<&EncodingType>) -> S3Result<()> {
    match encoding.map(EncodingType::as_str) {
        None | Some(EncodingType::URL) => Ok(()),
        Some(_) => Err(s3_error!(InvalidArgument, "encoding-type: only url is")),
    }
}

/// What ListObjectsV2 asks for.
pub(super) fn ask_of_v2(input: &ListObjectsV2Input) -> S3Result<Ask> {
    check_encoding(input.encoding_type.as_ref())?;
    let after = match &input.continuation_token {
        Some(token) => {
            let name = URL_SAFE_NO_PAD.decode(token).ok().and_then(|it| String::from_utf8(it).ok());
            name.ok_or_else(|| {
                s3_error!(InvalidArgument, "The continuation token provided is incorrect")
            })?
        }
        None => input.start_after.clone().unwrap_or_default(),
    };
    Ok(Ask {
        prefix: input.prefix.clone().unwrap_or_default(),
        is_folded: is_folded(input.delimiter.as_deref())?,
        after,
        max: names_max(input.max_keys)?,
    })
}

/// What ListObjects asks for.
pub(super) fn ask_of_v1(input: &ListObjectsInput) -> S3Result<Ask> {
    check_encoding(input.encoding_type.as_ref())?;
    Ok(Ask {
        prefix: input.prefix.clone().unwrap_or_default(),
        is_folded: is_folded(input.delimiter.as_deref())?,
        after: input.marker.clone().unwrap_or_default(),
        max: names_max(input.max_keys)?,
    })
}

/// Text as the client wants it.
fn said(text: &str, encoding: Option<&EncodingType>) -> String {
    if encoding.is_some() { utf8_percent_encode(text, URL).to_string() } else { text.to_owned() }
}

/// The lines of an answer.
fn lines(page: &Page, encoding: Option<&EncodingType>) -> (Vec<Object>, Vec<CommonPrefix>) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for item in &page.items {
        match item {
            Item::Object(key, version) => objects.push(Object {
                key: Some(said(key, encoding)),
                size: i64::try_from(version.size).ok(),
                e_tag: condition::tag(version),
                last_modified: Some(condition::modified(version)),
                ..Object::default()
            }),
            Item::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(said(prefix, encoding)) });
            }
        }
    }
    (objects, prefixes)
}

/// The answer to ListObjectsV2.
pub(super) fn answer_v2(input: ListObjectsV2Input, page: Page) -> ListObjectsV2Output {
    let encoding = input.encoding_type;
    let (objects, prefixes) = lines(&page, encoding.as_ref());
    let text = |it: Option<String>| it.map(|it| said(&it, encoding.as_ref()));
    ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(said(&input.prefix.unwrap_or_default(), encoding.as_ref())),
        delimiter: text(input.delimiter),
        start_after: text(input.start_after),
        max_keys: Some(input.max_keys.unwrap_or(1000)),
        key_count: i32::try_from(page.items.len()).ok(),
        continuation_token: input.continuation_token,
        next_continuation_token: page.next().map(|next| URL_SAFE_NO_PAD.encode(next)),
        is_truncated: Some(page.is_truncated),
        contents: (!objects.is_empty()).then_some(objects),
        common_prefixes: (!prefixes.is_empty()).then_some(prefixes),
        encoding_type: encoding.clone(),
        ..ListObjectsV2Output::default()
    }
}

/// The answer to ListObjects.
pub(super) fn answer_v1(input: ListObjectsInput, page: Page) -> ListObjectsOutput {
    let encoding = input.encoding_type;
    let (objects, prefixes) = lines(&page, encoding.as_ref());
    let text = |it: Option<String>| it.map(|it| said(&it, encoding.as_ref()));
    ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(said(&input.prefix.unwrap_or_default(), encoding.as_ref())),
        marker: Some(said(&input.marker.unwrap_or_default(), encoding.as_ref())),
        delimiter: text(input.delimiter),
        max_keys: Some(input.max_keys.unwrap_or(1000)),
        next_marker: page.next().map(|next| said(next, encoding.as_ref())),
        is_truncated: Some(page.is_truncated),
        contents: (!objects.is_empty()).then_some(objects),
        common_prefixes: (!prefixes.is_empty()).then_some(prefixes),
        encoding_type: encoding.clone(),
        ..ListObjectsOutput::default()
    }
}
