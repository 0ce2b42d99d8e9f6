//! The S3 endpoint over a real port, with a cache that is a map in memory: what goes wrong with bytes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_gateway::{S3Access, S3Endpoint, S3Mount, S3Parts};
use feedline_model::{Directory, DirectoryBuilder, ReadError, SourceId, Tree};
use feedline_testkit::{FakeClock, MemoryLister, MemorySource};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

const SOURCE: SourceId = SourceId(1);

/// The root of the bucket as it was listed last; listing again takes what the cache has now.
#[derive(Debug)]
struct Listed {
    known: Mutex<Option<Arc<Directory>>>,
    cache: Arc<MemorySource>,
}

#[async_trait]
impl Tree for Listed {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        self.known.lock().clone().filter(|_| path.is_empty())
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        let mut builder = DirectoryBuilder::new();
        for key in ["large", "small"] {
            if let Some(object) = self.cache.object(key) {
                builder.file(key, object.version);
            }
        }
        let (directory, _) = builder.build(path, Some((SOURCE, "".into())), 0, 1);
        *self.known.lock() = Some(Arc::new(directory));
        Ok(self.peek(path))
    }

    fn expire(&self, _: &str) {
        *self.known.lock() = None;
    }
}

struct Rig {
    cache: Arc<MemorySource>,
    lister: Arc<MemoryLister>,
    address: SocketAddr,
    endpoint: S3Endpoint,
}

async fn rig(access: S3Access, bytes_max: u64) -> Rig {
    let (cache, lister) = (MemorySource::new(SOURCE), MemoryLister::new(SOURCE));
    let mount =
        S3Mount { bucket: "b".into(), lister: lister.clone(), prefix: "".into(), path: "".into() };
    let endpoint = S3Endpoint::new(S3Parts {
        mounts: vec![mount],
        access,
        bytes_max,
        blocks: cache.clone(),
        tree: Arc::new(Listed { known: Mutex::default(), cache: cache.clone() }),
        clock: FakeClock::new().shared(),
        tasks: Handle::current(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = endpoint.clone();
    Handle::current().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let served = served.clone();
            Handle::current().spawn(async move {
                let service = service_fn(move |request| {
                    let answer = served.answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                // How a connection ends is what the client sees.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Rig { cache, lister, address, endpoint }
}

impl Rig {
    async fn ask(&self, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{head} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Everything up to the end of the connection.
    async fn text(&self, head: &str) -> String {
        let mut answer = Vec::new();
        // An end by reset is an end.
        let _ = self.ask(head).await.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changes_in_mid_stream_cuts_the_connection() {
    let rig = rig(S3Access::Anonymous, 1 << 30).await;
    // More than is read ahead and fits into the sockets.
    let size = 96 << 20;
    rig.cache.insert("large", Bytes::from(vec![1; size]));
    let mut stream = rig.ask("GET /b/large").await;
    let mut answer = vec![0; 1000];
    stream.read_exact(&mut answer).await.unwrap();
    let head = String::from_utf8_lossy(&answer).into_owned();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("content-length: {size}")));
    rig.cache.insert("large", Bytes::from(vec![2; size]));
    let _ = stream.read_to_end(&mut answer).await;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = &answer[body..];
    assert!(body.len() < size, "all {size} bytes came");
    assert!(body.iter().all(|byte| *byte == 1), "bytes of the other version");
}

#[tokio::test]
async fn a_version_that_is_gone_before_the_first_byte_is_looked_up_again() {
    let rig = rig(S3Access::Anonymous, 0).await;
    rig.cache.insert("small", Bytes::from_static(b"first"));
    assert!(rig.text("GET /b/small").await.ends_with("\r\n\r\nfirst"));
    rig.cache.insert("small", Bytes::from_static(b"second one"));
    let answer = rig.text("GET /b/small").await;
    assert!(answer.ends_with("\r\n\r\nsecond one"), "{answer}");
    assert!(answer.contains("content-length: 10"), "{answer}");
    rig.cache.remove("small");
    let answer = rig.text("GET /b/small").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("NoSuchKey"), "{answer}");
    let stats = rig.endpoint.stats();
    assert_eq!((stats.requests, stats.errors, stats.bytes), (3, 1, 15));
}

#[tokio::test]
async fn what_the_bucket_says_becomes_the_code_that_clients_know() {
    let rig = rig(S3Access::Anonymous, 0).await;
    rig.cache.insert("small", Bytes::from_static(b"bytes"));
    let (location, cause) = (Arc::from("s3://b/small"), Arc::from("injected"));
    let forbidden = ReadError::Forbidden { location, cause };
    for (error, expected) in [
        (MemorySource::unavailable(), ["HTTP/1.1 503", "<Code>SlowDown</Code>"]),
        (forbidden, ["HTTP/1.1 403", "<Code>AccessDenied</Code>"]),
    ] {
        rig.cache.fail_next(1, &error);
        let answer = rig.text("GET /b/small").await;
        assert!(answer.starts_with(expected[0]) && answer.contains(expected[1]), "{answer}");
    }
    rig.lister.fail_next(1, &MemorySource::unavailable());
    let answer = rig.text("GET /b?list-type=2").await;
    assert!(answer.contains("<Code>SlowDown</Code>"), "{answer}");
}

#[tokio::test]
async fn without_keys_nobody_reads_and_the_answer_says_what_to_do() {
    let rig = rig(S3Access::Closed("put a file s3-keys there"), 0).await;
    rig.cache.insert("small", Bytes::from_static(b"bytes"));
    for head in ["GET /b/small", "GET /", "GET /b?list-type=2"] {
        let answer = rig.text(head).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("s3-keys"), "{answer}");
    }
    assert!(rig.text("HEAD /b/small").await.starts_with("HTTP/1.1 403"));
    assert_eq!(rig.cache.reads_total() + rig.lister.requests(), 0);
}

#[tokio::test]
async fn where_all_may_read_a_signature_is_not_looked_at() {
    let rig = rig(S3Access::Anonymous, 0).await;
    rig.cache.insert("small", Bytes::from_static(b"bytes"));
    let presigned = "GET /b/small?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x&X-Amz-Signature=y\
                     &response-content-type=text/x";
    let answer = rig.text(presigned).await;
    assert!(answer.ends_with("bytes") && answer.contains("content-type: text/x"), "{answer}");
    // The rest of the line that `ask` adds becomes the value of a header.
    let signed = "GET /b/small HTTP/1.1\r\nAuthorization: AWS4-HMAC-SHA256 nonsense\r\nX-Rest:";
    let answer = rig.text(signed).await;
    assert!(answer.ends_with("bytes"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_write_says_whether_the_connection_goes_on() {
    let rig = rig(S3Access::Anonymous, 1 << 20).await;
    let ask = async |head: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let head = format!("PUT /b/new HTTP/1.1\r\nhost: h\r\n{head}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("</Error>") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
        }
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 501 "), "{answer}");
        answer.contains("connection: close")
    };
    // The body was read: another request may follow. One that was not sent yet never will be.
    assert!(!ask("content-length: 3", b"abc").await);
    assert!(ask("content-length: 3\r\nexpect: 100-continue", b"").await);
}
