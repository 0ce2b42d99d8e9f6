//! The S3 calls. Every call that is not here is answered 501 by `s3s`.

use std::ops::Range;
use std::sync::Arc;

use feedline_model::{BlockSource, Clock, Object, ReadError, Tree};
use s3s::dto::{
    self, GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput,
    ListBucketsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, StreamingBlob,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::time::UNIX_EPOCH;
use tokio::runtime::Handle;

use super::Counters;
use super::body::{NotBegun, Reading, Room};
use super::condition::{self, Conditions};
use super::failure::{self, Doing};
use super::find::{Bucket, Found};
use super::listing::{self, Ask, Page};

/// What S3 says of an object whose type nobody gave. The listing does not tell types.
const CONTENT_TYPE: &str = "binary/octet-stream";

/// How often a version that is gone when it is read is looked up: one that changes more often than
/// that is not read by trying faster.
const LOOKUPS: usize = 3;

/// Everything that the calls ask.
#[derive(Debug)]
pub(super) struct Calls {
    /// Sorted by name.
    pub(super) buckets: Vec<Bucket>,
    pub(super) tree: Arc<dyn Tree>,
    pub(super) blocks: Arc<dyn BlockSource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) room: Room,
    pub(super) tasks: Handle,
    pub(super) counters: Arc<Counters>,
}

/// What is the same of GetObject and HeadObject.
struct Wanted {
    key: String,
    range: Option<dto::Range>,
    conditions: Conditions,
}

/// What was found for it.
struct Answer {
    object: Object,
    range: Range<u64>,
    /// As the header says it, if a range was asked for.
    content_range: Option<String>,
}

impl Wanted {
    /// Checks that the call asks for nothing that is not there: other versions, and parts.
    fn new(
        key: String,
        range: Option<dto::Range>,
        conditions: Conditions,
        (version_id, part): (Option<String>, Option<i32>),
    ) -> S3Result<Self> {
        if version_id.is_some_and(|id| id != "null") {
            return Err(s3_error!(NotImplemented, "versionId: only the newest version is served"));
        }
        if part.is_some() {
            return Err(s3_error!(NotImplemented, "partNumber: ask for a range instead"));
        }
        Ok(Self { key, range, conditions })
    }

    /// The part of this version that is asked for.
    fn part_of(&self, object: &Object) -> S3Result<Answer> {
        self.conditions.check(&object.version)?;
        let size = object.version.size;
        let range = match &self.range {
            None => 0..size,
            Some(range) => range.check(size)?,
        };
        if self.range.is_some() && range.is_empty() {
            return Err(s3_error!(InvalidRange, "the object is empty"));
        }
        let said = || format!("bytes {}-{}/{size}", range.start, range.end - 1);
        let content_range = self.range.is_some().then(said);
        Ok(Answer { object: object.clone(), range, content_range })
    }
}

impl Answer {
    fn content_length(&self) -> Option<i64> {
        i64::try_from(self.range.end - self.range.start).ok()
    }
}

impl Calls {
    fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        let at = self.buckets.binary_search_by(|bucket| bucket.name.as_str().cmp(name));
        at.map(|at| &self.buckets[at])
            .map_err(|_| s3_error!(NoSuchBucket, "no bucket of this name is mounted on this node"))
    }

    async fn find(&self, bucket: &Bucket, key: &str) -> S3Result<Found> {
        let found = bucket.find(&*self.tree, &*self.clock, key).await;
        let found = found.map_err(|error| failure::of(&error, Doing::Listing))?;
        found.ok_or_else(|| match bucket.scope_of(key) {
            Some(_) => s3_error!(NoSuchKey, "The specified key does not exist."),
            None => s3_error!(NoSuchKey, "The key is below no prefix that is mounted on this node"),
        })
    }

    async fn page(&self, bucket: &Bucket, ask: Ask) -> S3Result<Page> {
        let page = listing::page(bucket, &*self.tree, &*self.clock, &ask).await;
        page.map_err(|error| failure::of(&error, Doing::Listing))
    }

    /// Finds the version and begins to read it. A version that is no more is looked up again: nothing
    /// of it was sent.
    async fn open(&self, bucket: &Bucket, wanted: &Wanted) -> S3Result<(Answer, StreamingBlob)> {
        let reading = Reading {
            blocks: Arc::clone(&self.blocks),
            room: self.room.clone(),
            tasks: self.tasks.clone(),
            counters: Arc::clone(&self.counters),
        };
        let mut lookups = 0;
        loop {
            lookups += 1;
            let found = self.find(bucket, &wanted.key).await?;
            let answer = wanted.part_of(&found.object)?;
            match reading.begin(&*self.clock, &found.object, answer.range.clone()).await {
                Ok(body) => return Ok((answer, body)),
                Err(NotBegun::Read(ReadError::Changed { .. } | ReadError::NotFound { .. }))
                    if lookups < LOOKUPS =>
                {
                    found.forget(&*self.tree);
                }
                Err(NotBegun::Read(error)) => return Err(failure::of(&error, Doing::Reading)),
                Err(NotBegun::Full) => {
                    return Err(s3_error!(SlowDown, "as much is being served as may be"));
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl S3 for Calls {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let other = (input.version_id, input.part_number);
        let wanted = Wanted::new(input.key, input.range, conditions, other)?;
        let (answer, body) = self.open(self.bucket(&input.bucket)?, &wanted).await?;
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(body),
            content_length: answer.content_length(),
            content_type: Some(CONTENT_TYPE.into()),
            e_tag: condition::tag(&answer.object.version),
            last_modified: Some(condition::modified(&answer.object.version)),
            content_range: answer.content_range,
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let conditions = Conditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let other = (input.version_id, input.part_number);
        let wanted = Wanted::new(input.key, input.range, conditions, other)?;
        let found = self.find(self.bucket(&input.bucket)?, &wanted.key).await?;
        let answer = wanted.part_of(&found.object)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: answer.content_length(),
            content_type: Some(CONTENT_TYPE.into()),
            e_tag: condition::tag(&answer.object.version),
            last_modified: Some(condition::modified(&answer.object.version)),
            content_range: answer.content_range,
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket = self.bucket(&request.input.bucket)?;
        let page = self.page(bucket, listing::ask_of_v2(&request.input)?).await?;
        Ok(S3Response::new(listing::answer_v2(request.input, page)))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let bucket = self.bucket(&request.input.bucket)?;
        let page = self.page(bucket, listing::ask_of_v1(&request.input)?).await?;
        Ok(S3Response::new(listing::answer_v1(request.input, page)))
    }

    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let prefix = request.input.prefix.as_deref().unwrap_or_default();
        let served = self.buckets.iter().filter(|bucket| bucket.name.starts_with(prefix));
        let buckets = served.map(|bucket| dto::Bucket {
            name: Some(bucket.name.clone()),
            // Clients insist on a date, and none is known.
            creation_date: Some(UNIX_EPOCH.into()),
            ..dto::Bucket::default()
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, ..ListBucketsOutput::default() }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(&request.input.bucket)?;
        // None means us-east-1, which is what SDKs sign for when nothing is configured.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }
}
