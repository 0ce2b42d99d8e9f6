//! Multipart uploads: parts wait in scratch files (or memory) until they are made an object.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::error::S3Error;
use crate::folder;
use crate::object::{Entry, StoredHeaders, Tag};
use crate::store::{Content, Store};

/// S3 numbers parts from 1 to this.
const PARTS_MAX: u16 = 10_000;

/// S3 refuses a smaller part, unless it is the last.
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

/// A part that has arrived.
#[derive(Debug)]
struct Part {
    tag: Tag,
    size: u64,
    content: Content,
}

impl Part {
    fn discard(&self) {
        if let Content::Scratch(path) = &self.content {
            let _ = fs::remove_file(path); // The scratch directory goes with the server anyway.
        }
    }
}

/// An upload begun.
#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    headers: StoredHeaders,
    parts: BTreeMap<u16, Part>,
}

/// All uploads begun and not yet ended, by id.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: Mutex<(u64, HashMap<String, Upload>)>,
}

/// The body of CompleteMultipartUpload.
#[derive(Debug, Deserialize)]
pub(crate) struct Complete {
    #[serde(rename = "Part", default)]
    parts: Vec<CompletePart>,
}

#[derive(Debug, Deserialize)]
struct CompletePart {
    #[serde(rename = "PartNumber")]
    number: u16,
    #[serde(rename = "ETag")]
    tag: String,
}

impl Uploads {
    /// Begins an upload and returns its id.
    pub(crate) fn create(&self, bucket: &str, key: &str, headers: StoredHeaders) -> String {
        let mut open = self.open.lock();
        open.0 += 1;
        let id = format!("upload-{:016x}", open.0);
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        open.1.insert(id.clone(), Upload { bucket, key, headers, parts: BTreeMap::new() });
        id
    }

    /// Keeps a part; one of the same number is replaced.
    pub(crate) fn put(
        &self,
        store: &Store,
        id: &str,
        number: &str,
        bytes: Bytes,
    ) -> Result<Tag, S3Error> {
        let number = number.parse().ok().filter(|number| (1..=PARTS_MAX).contains(number));
        let number = number.ok_or_else(|| {
            S3Error::invalid_argument("Part number must be an integer between 1 and 10000")
        })?;
        if !self.open.lock().1.contains_key(id) {
            return Err(S3Error::no_such_upload());
        }
        let (tag, size) = (Tag::of_bytes(&bytes), bytes.len() as u64);
        let content = match store.scratch()? {
            Some(path) => {
                fs::write(&path, &bytes)?;
                Content::Scratch(path)
            }
            None => Content::Bytes(bytes),
        };
        let part = Part { tag, size, content };
        let mut open = self.open.lock();
        let Some(upload) = open.1.get_mut(id) else {
            part.discard();
            return Err(S3Error::no_such_upload());
        };
        if let Some(old) = upload.parts.insert(number, part) {
            old.discard();
        }
        Ok(tag)
    }

    /// Ends an upload and forgets its parts.
    pub(crate) fn abort(&self, id: &str) -> Result<(), S3Error> {
        let upload = self.open.lock().1.remove(id).ok_or_else(S3Error::no_such_upload)?;
        upload.parts.values().for_each(Part::discard);
        Ok(())
    }

    /// Number, tag and size of the parts that have arrived.
    pub(crate) fn parts(&self, id: &str) -> Result<Vec<(u16, Tag, u64)>, S3Error> {
        let open = self.open.lock();
        let upload = open.1.get(id).ok_or_else(S3Error::no_such_upload)?;
        Ok(upload.parts.iter().map(|(number, part)| (*number, part.tag, part.size)).collect())
    }

    /// Id, bucket and key of the uploads begun.
    pub(crate) fn list(&self, bucket: &str) -> Vec<(String, String)> {
        let open = self.open.lock();
        let ours = open.1.iter().filter(|(_, upload)| upload.bucket == bucket);
        ours.map(|(id, upload)| (id.clone(), upload.key.clone())).collect()
    }

    /// Makes the listed parts an object. A mistake in the list leaves the upload as it is.
    pub(crate) fn complete(
        &self,
        store: &Store,
        id: &str,
        list: &Complete,
    ) -> Result<Entry, S3Error> {
        let upload = {
            let mut open = self.open.lock();
            check(open.1.get(id).ok_or_else(S3Error::no_such_upload)?, list)?;
            open.1.remove(id).expect("found just above")
        };
        let parts: Vec<&Part> = list.parts.iter().map(|part| &upload.parts[&part.number]).collect();
        let tags: Vec<Tag> = parts.iter().map(|part| part.tag).collect();
        let tag = Tag::of_parts(&tags);
        let content = match store.scratch()? {
            Some(path) => {
                join(&path, &parts, tag, &upload.headers)?;
                Content::Scratch(path)
            }
            None => {
                let mut whole = BytesMut::new();
                for part in &parts {
                    if let Content::Bytes(bytes) = &part.content {
                        whole.extend_from_slice(bytes);
                    }
                }
                Content::Bytes(whole.freeze())
            }
        };
        upload.parts.values().for_each(Part::discard);
        let bucket = store.bucket(&upload.bucket)?;
        bucket.put(store, &upload.key, content, tag, upload.headers, |_| Ok(()))
    }
}

fn check(upload: &Upload, list: &Complete) -> Result<(), S3Error> {
    if list.parts.is_empty() {
        return Err(S3Error::malformed_xml("You must specify at least one part"));
    }
    if !list.parts.is_sorted_by(|one, two| one.number < two.number) {
        let message = "The list of parts was not in ascending order.";
        return Err(S3Error::new(StatusCode::BAD_REQUEST, "InvalidPartOrder", message));
    }
    for (at, listed) in list.parts.iter().enumerate() {
        let part = upload.parts.get(&listed.number);
        let part = part.filter(|part| part.tag.to_string() == listed.tag.trim_matches('"'));
        let part = part.ok_or_else(|| {
            S3Error::invalid_part(format!("part {} was not uploaded so", listed.number))
        })?;
        if part.size < PART_BYTES_MIN && at + 1 < list.parts.len() {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(S3Error::new(StatusCode::BAD_REQUEST, "EntityTooSmall", message));
        }
    }
    Ok(())
}

/// Writes the parts one after another; the kernel copies between the files.
fn join(path: &Path, parts: &[&Part], tag: Tag, headers: &StoredHeaders) -> io::Result<()> {
    let mut whole = File::create(path)?;
    for part in parts {
        if let Content::Scratch(path) = &part.content {
            io::copy(&mut File::open(path)?, &mut whole)?;
        }
    }
    folder::set_attribute(&whole, tag, headers)
}
