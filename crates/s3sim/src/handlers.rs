//! The S3 calls: from a request whose body has arrived to an answer, without delay or fault.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use md5::{Digest, Md5};
use serde::Deserialize;

use crate::body::{CHUNK_BYTES, Source};
use crate::chunked;
use crate::error::S3Error;
use crate::list::Query;
use crate::multipart::{Complete, Uploads};
use crate::object::{Data, Found, StoredHeaders, Tag, http_date, iso8601};
use crate::sigv4::{header, sha256_hex};
use crate::stats::Counters;
use crate::store::{Content, Store};
use crate::target::{Target, decode};
use crate::xml;

/// A body up to this is read in one call before the head is sent.
const WHOLE_BYTES_MAX: u64 = 4 * CHUNK_BYTES;

/// The headers that are stored with an object and served with it, beside `x-amz-meta-*`.
const STORED_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

/// What S3 calls bytes of unknown type.
const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

/// An answer, not yet on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) source: Source,
}

impl Answer {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), source: Source::Memory(Bytes::new()) }
    }

    pub(crate) fn text(status: StatusCode, content_type: &str, text: String) -> Self {
        let headers = vec![("content-type".into(), content_type.into())];
        Self { status, headers, source: Source::Memory(text.into()) }
    }

    fn xml(body: &str) -> Self {
        let text = format!("{}{body}", xml::DECLARATION);
        Self::text(StatusCode::OK, "application/xml", text)
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The answer to an error.
    pub(crate) fn error(error: &S3Error, resource: &str) -> Self {
        if error.status == StatusCode::NOT_MODIFIED {
            return Self::empty(error.status);
        }
        let text = format!(
            "{}<Error>{}{}{}<RequestId>s3sim</RequestId></Error>",
            xml::DECLARATION,
            xml::tag("Code", error.code),
            xml::tag("Message", &error.message),
            xml::tag("Resource", resource),
        );
        Self::text(error.status, "application/xml", text)
    }
}

/// What the calls work on.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) uploads: Uploads,
    pub(crate) counters: Arc<Counters>,
}

/// One request, whole.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) target: &'a Target,
    pub(crate) body: Bytes,
}

#[derive(Debug, Deserialize)]
struct DeleteList {
    #[serde(rename = "Object", default)]
    objects: Vec<DeleteItem>,
    #[serde(rename = "Quiet", default)]
    quiet: bool,
}

#[derive(Debug, Deserialize)]
struct DeleteItem {
    #[serde(rename = "Key")]
    key: String,
}

impl Api {
    pub(crate) fn call(&self, call: Call<'_>) -> Result<Answer, S3Error> {
        let target = call.target;
        match (target.bucket.is_empty(), target.key.is_empty()) {
            (true, _) if call.parts.method == Method::GET => self.list_buckets(),
            (true, _) => Err(S3Error::not_implemented("this call without a bucket")),
            (false, true) => self.call_bucket(&call),
            (false, false) => self.call_object(&call),
        }
    }

    fn call_bucket(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let (name, target) = (&call.target.bucket, call.target);
        match call.parts.method {
            Method::PUT => {
                self.store.create_bucket(name)?;
                Ok(Answer::empty(StatusCode::OK).with("location", format!("/{name}")))
            }
            Method::HEAD => {
                self.store.bucket(name)?;
                Ok(Answer::empty(StatusCode::OK).with("x-amz-bucket-region", "us-east-1"))
            }
            Method::DELETE => {
                self.store.delete_bucket(name)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            Method::POST if target.has("delete") => self.delete_objects(call),
            Method::GET if target.has("location") => {
                self.store.bucket(name)?;
                Ok(Answer::xml("<LocationConstraint/>"))
            }
            Method::GET if target.has("versioning") => {
                self.store.bucket(name)?;
                Ok(Answer::xml("<VersioningConfiguration/>"))
            }
            Method::GET if target.has("uploads") => self.list_uploads(name),
            Method::GET => {
                let bucket = self.store.bucket(name)?;
                let query = Query::parse(target)?;
                let page =
                    bucket.list(&query.prefix, query.is_first(), |keys| query.collect(keys))?;
                let text = query.answer(name, &page);
                Ok(Answer::text(StatusCode::OK, "application/xml", text))
            }
            _ => Err(S3Error::not_implemented("this call on a bucket")),
        }
    }

    fn call_object(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let target = call.target;
        let upload = target.param("uploadId");
        match (&call.parts.method, upload) {
            (&Method::GET, Some(id)) => self.list_parts(target, id),
            (&Method::GET, None) => {
                let answer = self.get(call)?;
                self.counters.got(&target.bucket, &target.key);
                Ok(answer)
            }
            (&Method::HEAD, _) => {
                // HEAD says the length of the body that GET would have, and sends none.
                let answer = self.get(call)?;
                let length = answer.source.len().to_string();
                let source = Source::Memory(Bytes::new());
                Ok(Answer { source, ..answer }.with("content-length", length))
            }
            (&Method::PUT, Some(id)) => self.put_part(call, id),
            (&Method::PUT, None) if call.parts.headers.contains_key("x-amz-copy-source") => {
                self.copy(call)
            }
            (&Method::PUT, None) => self.put(call),
            (&Method::POST, _) if target.has("uploads") => {
                self.store.bucket(&target.bucket)?.refuse_writes()?;
                let headers = stored_headers(&call.parts.headers);
                let id = self.uploads.create(&target.bucket, &target.key, headers);
                let name = "InitiateMultipartUploadResult";
                Ok(Answer::xml(&result(name, &(place(target) + &xml::tag("UploadId", &id)))))
            }
            (&Method::POST, Some(id)) => self.complete(call, id),
            (&Method::DELETE, Some(id)) => {
                self.uploads.abort(id)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            (&Method::DELETE, None) => {
                self.store.bucket(&target.bucket)?.delete(&target.key)?;
                Ok(Answer::empty(StatusCode::NO_CONTENT))
            }
            _ => Err(S3Error::not_implemented("this call on an object")),
        }
    }

    fn list_buckets(&self) -> Result<Answer, S3Error> {
        let mut list = String::new();
        for (name, time) in self.store.buckets()? {
            let time = xml::tag("CreationDate", &iso8601(time));
            list.push_str(&format!("<Bucket>{}{time}</Bucket>", xml::tag("Name", &name)));
        }
        let owner = "<Owner><ID>s3sim</ID><DisplayName>s3sim</DisplayName></Owner>";
        let body = format!("{owner}<Buckets>{list}</Buckets>");
        Ok(Answer::xml(&result("ListAllMyBucketsResult", &body)))
    }

    fn get(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let found = self.store.bucket(&call.target.bucket)?.find(&call.target.key)?;
        let (headers, size) = (&call.parts.headers, found.entry.size);
        check_conditions(headers, &found)?;
        let range = match headers.get("range").and_then(|value| value.to_str().ok()) {
            Some(text) => parse_range(text, size)?,
            None => None,
        };
        let (start, length) = range.unwrap_or((0, size));
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let with_body = call.parts.method == Method::GET;
        let mut answer = Answer {
            status,
            headers: Vec::with_capacity(6 + found.headers.len()),
            source: source(&found.data, start, length, with_body)?,
        };
        answer = answer
            .with("etag", format!("\"{}\"", found.entry.tag))
            .with("last-modified", http_date(found.entry.modified()))
            .with("accept-ranges", "bytes");
        if range.is_some() {
            let range = format!("bytes {start}-{}/{size}", start + length - 1);
            answer = answer.with("content-range", range);
        }
        if !found.headers.iter().any(|(name, _)| name == "content-type") {
            answer = answer.with("content-type", CONTENT_TYPE_DEFAULT);
        }
        answer.headers.extend(found.headers);
        Ok(answer)
    }

    fn put(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let bucket = self.store.bucket(&call.target.bucket)?;
        let headers = &call.parts.headers;
        let bytes = payload(call)?;
        let tag = Tag::of_bytes(&bytes);
        let condition = |found: Result<Found, S3Error>| put_condition(headers, found);
        let stored = stored_headers(headers);
        let content = Content::Bytes(bytes);
        let entry = bucket.put(&self.store, &call.target.key, content, tag, stored, condition)?;
        Ok(Answer::empty(StatusCode::OK).with("etag", format!("\"{}\"", entry.tag)))
    }

    /// The bytes and headers that `x-amz-copy-source` names.
    fn copy_source(&self, headers: &HeaderMap) -> Result<(Bytes, StoredHeaders), S3Error> {
        let text = header(headers, "x-amz-copy-source");
        let source = decode(text.split('?').next().unwrap_or_default())?;
        let source = source.strip_prefix('/').unwrap_or(&source);
        let (bucket, key) = source
            .split_once('/')
            .ok_or_else(|| S3Error::invalid_argument("x-amz-copy-source must be bucket/key"))?;
        let found = self.store.bucket(bucket)?.find(key)?;
        let range = header(headers, "x-amz-copy-source-range");
        let (start, length) =
            parse_range(&range, found.entry.size)?.unwrap_or((0, found.entry.size));
        Ok((read(&found.data, start, length)?, found.headers))
    }

    fn copy(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let headers = &call.parts.headers;
        let bucket = self.store.bucket(&call.target.bucket)?;
        let (bytes, mut stored) = self.copy_source(headers)?;
        if header(headers, "x-amz-metadata-directive") == "REPLACE" {
            stored = stored_headers(headers);
        }
        let tag = Tag::of_bytes(&bytes);
        let (key, content) = (&call.target.key, Content::Bytes(bytes));
        let entry = bucket.put(&self.store, key, content, tag, stored, |_| Ok(()))?;
        let time = xml::tag("LastModified", &iso8601(entry.modified()));
        let tag = xml::tag("ETag", &format!("\"{}\"", entry.tag));
        Ok(Answer::xml(&result("CopyObjectResult", &(time + &tag))))
    }

    fn put_part(&self, call: &Call<'_>, id: &str) -> Result<Answer, S3Error> {
        let number = call.target.param("partNumber").unwrap_or("");
        let headers = &call.parts.headers;
        let copied = headers.contains_key("x-amz-copy-source");
        let bytes = if copied { self.copy_source(headers)?.0 } else { payload(call)? };
        let tag = format!("\"{}\"", self.uploads.put(&self.store, id, number, bytes)?);
        if copied {
            let time = xml::tag("LastModified", &iso8601(SystemTime::now()));
            return Ok(Answer::xml(&result("CopyPartResult", &(time + &xml::tag("ETag", &tag)))));
        }
        Ok(Answer::empty(StatusCode::OK).with("etag", tag))
    }

    fn complete(&self, call: &Call<'_>, id: &str) -> Result<Answer, S3Error> {
        let list: Complete = parse_xml(&call.body)?;
        let entry = self.uploads.complete(&self.store, id, &list)?;
        let tag = xml::tag("ETag", &format!("\"{}\"", entry.tag));
        Ok(Answer::xml(&result("CompleteMultipartUploadResult", &(place(call.target) + &tag))))
    }

    fn list_parts(&self, target: &Target, id: &str) -> Result<Answer, S3Error> {
        let mut body = place(target) + &xml::tag("UploadId", id);
        body.push_str("<IsTruncated>false</IsTruncated>");
        for (number, tag, size) in self.uploads.parts(id)? {
            body.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag>\
                 <Size>{size}</Size></Part>"
            ));
        }
        Ok(Answer::xml(&result("ListPartsResult", &body)))
    }

    fn list_uploads(&self, bucket: &str) -> Result<Answer, S3Error> {
        self.store.bucket(bucket)?;
        let mut body = xml::tag("Bucket", bucket) + "<IsTruncated>false</IsTruncated>";
        for (id, key) in self.uploads.list(bucket) {
            let upload = xml::tag("Key", &key) + &xml::tag("UploadId", &id);
            body.push_str(&format!("<Upload>{upload}</Upload>"));
        }
        Ok(Answer::xml(&result("ListMultipartUploadsResult", &body)))
    }

    fn delete_objects(&self, call: &Call<'_>) -> Result<Answer, S3Error> {
        let bucket = self.store.bucket(&call.target.bucket)?;
        let list: DeleteList = parse_xml(&payload(call)?)?;
        let mut body = String::new();
        for object in &list.objects {
            let key = xml::tag("Key", &object.key);
            match bucket.delete(&object.key) {
                Ok(()) if list.quiet => {}
                Ok(()) => body.push_str(&format!("<Deleted>{key}</Deleted>")),
                Err(error) => {
                    let (code, message) =
                        (xml::tag("Code", error.code), xml::tag("Message", &error.message));
                    body.push_str(&format!("<Error>{key}{code}{message}</Error>"));
                }
            }
        }
        Ok(Answer::xml(&result("DeleteResult", &body)))
    }
}

fn result(name: &str, body: &str) -> String {
    format!("<{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{body}</{name}>")
}

fn place(target: &Target) -> String {
    xml::tag("Bucket", &target.bucket) + &xml::tag("Key", &target.key)
}

fn parse_xml<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, S3Error> {
    let text =
        std::str::from_utf8(body).map_err(|error| S3Error::malformed_xml(error.to_string()))?;
    quick_xml::de::from_str(text).map_err(|error| S3Error::malformed_xml(error.to_string()))
}

/// The body of an upload, unwrapped, and equal to every hash that came with it.
fn payload(call: &Call<'_>) -> Result<Bytes, S3Error> {
    let headers = &call.parts.headers;
    let bad =
        |code| S3Error::new(StatusCode::BAD_REQUEST, code, "The bytes do not match their hash");
    let bytes = if chunked::is_chunked(headers) {
        chunked::decode(call.body.clone(), headers)?
    } else {
        let hash = header(headers, "x-amz-content-sha256");
        if hash.len() == 64 && hash != sha256_hex(&call.body) {
            return Err(bad("XAmzContentSHA256Mismatch"));
        }
        call.body.clone()
    };
    let md5 = header(headers, "content-md5");
    if !md5.is_empty() && md5 != BASE64_STANDARD.encode(Md5::digest(&bytes)) {
        return Err(bad("BadDigest"));
    }
    Ok(bytes)
}

fn stored_headers(headers: &HeaderMap) -> StoredHeaders {
    let mut stored = Vec::new();
    for (name, value) in headers {
        let (name, value) = (name.as_str(), String::from_utf8_lossy(value.as_bytes()));
        if name == "content-encoding" {
            // How the upload was wrapped is not part of the object.
            let kept = value.split(',').map(str::trim).filter(|one| *one != "aws-chunked");
            let kept = kept.collect::<Vec<_>>().join(",");
            if !kept.is_empty() {
                stored.push((name.to_owned(), kept));
            }
        } else if STORED_HEADERS.contains(&name) || name.starts_with("x-amz-meta-") {
            stored.push((name.to_owned(), value.into_owned()));
        }
    }
    stored
}

/// True if a list of tags, as in `If-Match`, names this one.
fn names_tag(list: &str, tag: Tag) -> bool {
    let tag = tag.to_string();
    list.split(',')
        .map(|one| one.trim().trim_start_matches("W/").trim_matches('"'))
        .any(|one| one == "*" || one == tag)
}

fn check_conditions(headers: &HeaderMap, found: &Found) -> Result<(), S3Error> {
    let (if_match, if_none_match) = (header(headers, "if-match"), header(headers, "if-none-match"));
    if !if_match.is_empty() && !names_tag(&if_match, found.entry.tag) {
        return Err(S3Error::precondition_failed());
    }
    if !if_none_match.is_empty() && names_tag(&if_none_match, found.entry.tag) {
        return Err(S3Error::new(StatusCode::NOT_MODIFIED, "NotModified", "Not Modified"));
    }
    Ok(())
}

/// `If-None-Match: *` makes a PUT create only, `If-Match` replace only that version.
fn put_condition(headers: &HeaderMap, found: Result<Found, S3Error>) -> Result<(), S3Error> {
    let (if_match, if_none_match) = (header(headers, "if-match"), header(headers, "if-none-match"));
    let exists = |list: &str| found.as_ref().is_ok_and(|found| names_tag(list, found.entry.tag));
    let refused = !if_match.is_empty() && !exists(&if_match)
        || !if_none_match.is_empty() && exists(&if_none_match);
    if refused { Err(S3Error::precondition_failed()) } else { Ok(()) }
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n` into start and length. Anything else, also several
/// ranges, is ignored, as on S3: the whole object is the answer.
fn parse_range(text: &str, size: u64) -> Result<Option<(u64, u64)>, S3Error> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(tail)) if first.is_empty() && 0 < tail => (size.saturating_sub(tail), size),
        (Err(_), Ok(0)) if first.is_empty() => return Err(S3Error::invalid_range()),
        _ => return Ok(None),
    };
    if end <= start {
        return Err(S3Error::invalid_range());
    }
    Ok(Some((start, end - start)))
}

fn read(data: &Data, start: u64, length: u64) -> Result<Bytes, S3Error> {
    match data {
        Data::Memory(bytes) => Ok(bytes.slice(start as usize..(start + length) as usize)),
        Data::File(file) => {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes.into())
        }
    }
}

/// The bytes to send. A HEAD, which sends none, reads none.
fn source(data: &Data, start: u64, length: u64, with_body: bool) -> Result<Source, S3Error> {
    match data {
        Data::File(file) if !with_body || WHOLE_BYTES_MAX < length => {
            Ok(Source::File { file: Arc::clone(file), at: start, left: length })
        }
        _ => Ok(Source::Memory(read(data, start, length)?)),
    }
}
