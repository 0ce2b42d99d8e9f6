//! `feedline dataset put`: uploads a data set, many objects at once, and goes on where it stopped.
//!
//! What is in the bucket is found with one listing of the prefix, never with a request an object; an
//! object that is there with the same size is left. Every file ends as uploaded, left or failed, and
//! the three add up to the files found; the command fails if one failed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use feedline_model::{Clock, ListRequest, Lister, ReadError};
use feedline_node::clock::SystemClock;
use feedline_node::store::{Store, StoreConfig, Uploader};
use futures::StreamExt as _;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use super::source::{Body, Item, walk};

/// Tries of one object, with a pause that doubles from [`RETRY_PAUSE`]. The store's client retries too;
/// this outlasts a bucket that refuses for some seconds.
const TRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Bytes handed on at a time for a file that is streamed.
const CHUNK_BYTES: usize = 1 << 20;
/// Files up to this size are read whole, which makes a retry cheap and needs one PUT.
const WHOLE_BYTES_MAX: u64 = 16 << 20;
/// Failures printed in full; the rest is counted.
const FAILURES_SHOWN: usize = 10;

/// `feedline dataset put`
#[derive(Debug, Clone, clap::Args)]
pub struct PutArgs {
    /// A folder, ILSVRC2012_img_train.tar, or ILSVRC2012_img_val.tar with --val-map
    pub source: PathBuf,
    /// s3://bucket/prefix (or gs://, az://, file://)
    pub url: String,
    /// Address of an S3-compatible store
    #[arg(long, env = "FEEDLINE_ENDPOINT", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Uploads at a time
    #[arg(long, default_value_t = 64)]
    pub parallel: usize,
    /// Lines of `ILSVRC2012_val_00000001.JPEG n01751748`
    #[arg(long, value_name = "FILE")]
    pub val_map: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// The account: `uploaded + skipped + failed` is `files`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Put {
    /// Files found in the source.
    pub files: u64,
    /// Of these, sent now.
    pub uploaded: u64,
    /// Bytes sent now.
    pub uploaded_bytes: u64,
    /// There already, with the same size.
    pub skipped: u64,
    /// Not in the bucket now.
    pub failed: u64,
    /// Why, for the first few.
    pub failures: Vec<String>,
}

/// Uploads. Blocks; runs its own runtime.
///
/// # Errors
///
/// If the store cannot be opened or listed, or the source cannot be read to its end. Objects that
/// failed are in the account, not an error.
pub fn put(args: &PutArgs, progress: &ProgressBar) -> Result<Put> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let config = StoreConfig { endpoint: args.endpoint.clone(), ..StoreConfig::new(&args.url) };
    let seed = clock.unix_ms();
    let store = Store::open(&config, clock.clone(), runtime.handle().clone(), seed)?;
    let there = runtime.block_on(list(&store)).context("list what is there already")?;
    let prefix = store.prefix().to_owned();
    let parallel = args.parallel.max(1);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Item>(parallel);
    let mut account = Put::default();
    let walked: Result<Put> = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let sender = sender;
            let missing = |key: &str, size: u64| there.get(key) != Some(&size);
            let mut found = Put::default();
            walk(&args.source, args.val_map.as_deref(), &missing, &mut |item| {
                found.files += 1;
                if !missing(&item.key, item.size) {
                    found.skipped += 1;
                    progress.inc(1);
                    return true;
                }
                progress.inc_length(1);
                sender.blocking_send(item).is_ok()
            })?;
            Ok(found)
        });
        let uploader = store.uploader();
        let items = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        let mut results = std::pin::pin!(
            items.map(|item| upload(&uploader, &prefix, item, &clock)).buffer_unordered(parallel)
        );
        runtime.block_on(async {
            while let Some(result) = results.next().await {
                progress.inc(1);
                count(&mut account, result);
            }
        });
        reader.join().expect("the reader does not panic")
    });
    let found = walked?;
    Ok(Put { files: found.files, skipped: found.skipped, ..account })
}

fn count(account: &mut Put, result: Result<u64, String>) {
    match result {
        Ok(bytes) => {
            account.uploaded += 1;
            account.uploaded_bytes += bytes;
        }
        Err(why) => {
            account.failed += 1;
            if account.failures.len() < FAILURES_SHOWN {
                account.failures.push(why);
            }
        }
    }
}

/// Sizes by key, without the prefix.
async fn list(store: &Store) -> Result<HashMap<String, u64>, ReadError> {
    let mut sizes = HashMap::new();
    let prefix = store.prefix().to_owned();
    let mut request =
        ListRequest { prefix: prefix.clone(), delimiter: false, after: None, token: None };
    loop {
        let page = store.list(&request).await?;
        for object in page.objects {
            if let Some(key) = object.key.strip_prefix(&prefix) {
                sizes.insert(key.to_owned(), object.version.size);
            }
        }
        request.token = page.next;
        if request.token.is_none() {
            return Ok(sizes);
        }
    }
}

/// Bytes sent, or why not.
async fn upload(
    uploader: &Uploader,
    prefix: &str,
    item: Item,
    clock: &Arc<dyn Clock>,
) -> Result<u64, String> {
    let key = format!("{prefix}{}", item.key);
    let mut attempt = 1;
    loop {
        match send(uploader, &key, &item).await {
            Ok(()) => return Ok(item.size),
            Err(error) if error.is_retryable() && attempt < TRIES => {
                clock.sleep(RETRY_PAUSE * 2_u32.pow(attempt - 1)).await;
                attempt += 1;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn send(uploader: &Uploader, key: &str, item: &Item) -> Result<(), ReadError> {
    let local = |error: std::io::Error| ReadError::Rejected {
        location: key.into(),
        cause: format!("read the source: {error}").into(),
    };
    match &item.body {
        Body::Memory(bytes) => uploader.put(key, Bytes::copy_from_slice(bytes)).await,
        Body::File(path) if item.size <= WHOLE_BYTES_MAX => {
            let bytes = tokio::fs::read(path).await.map_err(local)?;
            if bytes.len() as u64 != item.size {
                return Err(local(std::io::Error::other("its size changed meanwhile")));
            }
            uploader.put(key, bytes.into()).await
        }
        Body::File(path) => {
            let file = tokio::fs::File::open(path).await.map_err(local)?;
            let chunks = futures::stream::try_unfold(file, |mut file| async move {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = file.read(&mut chunk).await?;
                chunk.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(chunk), file)))
            });
            uploader.put_stream(key, Box::pin(chunks)).await.map(drop)
        }
    }
}
