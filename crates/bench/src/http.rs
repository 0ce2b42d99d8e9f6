//! `feedline bench http`: a bare HTTP client, the yardstick of a cold read.
//!
//! It GETs every object once over many kept connections, checks status and length, and does nothing
//! else: no file system, no cache, no listing. What a file system in front of the same bucket reaches
//! of its speed, and how much CPU it may spend, is measured against it. With `--write` it keeps what it
//! gets in files, which is the least that filling a cache can cost.
//!
//! One thread serves all connections, and HTTP/1.1 is spoken by hand over the sockets: a yardstick
//! spends nothing that the work does not need, and on a small machine the bucket needs the other CPU.
//!
//! # Deliberately absent
//!
//! - Retries: an answer that is not the object is an error, or the speeds would not be of equal work.
//! - TLS and signatures: it is for a simulated bucket that lets everybody read.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::facts::Facts;
use crate::files::list_tree;
use crate::read::{Order, Pass, cpu_seconds};
use crate::time::now;
use crate::units::{Histogram, rate};

/// Bytes taken from a socket at a time: a whole object of the usual size in one or two reads.
const READ_BYTES: usize = 128 << 10;
/// No head of an S3 answer is longer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long one object may take: far above what a busy machine needs, below what a person waits.
const OBJECT_TIME_MAX: Duration = Duration::from_secs(60);
/// What a path keeps as it is.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `feedline bench http`
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct HttpArgs {
    /// http://HOST:PORT/BUCKET, or with a prefix; everybody must be allowed to read
    pub url: String,
    /// What to get: a file with a line `KEY` or `BYTES KEY` for each object, or a folder that holds the
    /// same files
    pub list: PathBuf,
    /// Connections; of several numbers each is tried
    #[arg(long, value_delimiter = ',', default_value = "8,64,256", value_name = "N[,N]")]
    pub connections: Vec<usize>,
    /// Order of the objects
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,
    /// Seed of the order
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep the objects as files below this folder
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// One try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpPass {
    /// Connections at a time.
    pub connections: usize,
    /// What was got; the latency is from the request to the last byte.
    pub pass: Pass,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HttpResult {
    /// Where it was measured.
    pub facts: Facts,
    /// What was asked.
    pub args: HttpArgs,
    /// One after the other.
    pub passes: Vec<HttpPass>,
}

/// `feedline bench http`: measures and prints.
///
/// # Errors
///
/// The first object that did not come whole, with its key.
pub fn run(args: &HttpArgs) -> Result<HttpResult> {
    let fetch = Fetch::new(&args.url, objects(&args.list)?)?;
    let order = args.order.of(fetch.objects.len(), args.seed, 0);
    let mut passes = Vec::new();
    for &connections in &args.connections {
        let pass = fetch.pass(connections, &order, args.write.as_deref())?;
        passes.push(HttpPass { connections, pass });
    }
    let result = HttpResult { facts: Facts::collect(), args: args.clone(), passes };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(result);
    }
    println!("{}", result.facts.line());
    for HttpPass { connections, pass } in &result.passes {
        println!("{connections} connections: {}", pass.line());
    }
    Ok(result)
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key below the address.
    pub key: String,
    /// Its length if known; else what the answer says is believed.
    pub bytes: Option<u64>,
}

/// The objects that `list` names: the lines of a file, or the files of a folder.
///
/// # Errors
///
/// If it cannot be read, or names nothing.
pub fn objects(list: &Path) -> Result<Vec<Object>> {
    let found: Vec<Object> = if list.is_dir() {
        let object = |path: &PathBuf| {
            let key = path.strip_prefix(list)?.to_str().context("a name that is not UTF-8")?;
            Ok(Object { key: key.to_owned(), bytes: Some(fs::metadata(path)?.len()) })
        };
        list_tree(list)?.iter().map(object).collect::<Result<_>>()?
    } else {
        let text = fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
        text.lines().filter(|line| !line.is_empty()).map(parse_line).collect()
    };
    ensure!(!found.is_empty(), "{} names no object", list.display());
    Ok(found)
}

/// `BYTES KEY` or `KEY`.
fn parse_line(line: &str) -> Object {
    if let Some((bytes, key)) = line.split_once([' ', '\t'])
        && let Ok(bytes) = bytes.parse()
    {
        return Object { key: key.to_owned(), bytes: Some(bytes) };
    }
    Object { key: line.to_owned(), bytes: None }
}

/// Objects and where they are.
#[derive(Debug)]
pub struct Fetch {
    /// `HOST:PORT`.
    host: String,
    /// The objects, in the order of the list.
    pub objects: Vec<Object>,
    /// What is sent for each.
    requests: Vec<Vec<u8>>,
}

impl Fetch {
    /// Gets `objects` below `url`, which is `http://HOST:PORT/BUCKET`.
    ///
    /// # Errors
    ///
    /// If the address is not plain HTTP with a bucket.
    pub fn new(url: &str, objects: Vec<Object>) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("the address must begin with http://")?;
        let (host, prefix) = rest.split_once('/').context("the address must name a bucket")?;
        let prefix = prefix.trim_end_matches('/');
        let request = |object: &Object| {
            let path = utf8_percent_encode(&object.key, PATH);
            format!("GET /{prefix}/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
        };
        let requests = objects.iter().map(request).collect();
        Ok(Self { host: host.to_owned(), objects, requests })
    }

    /// Asks the bucket at `url` (`http://HOST:PORT`) for a LIST of each prefix, in the words of a mount. The
    /// answers are got as objects are, and not looked at.
    ///
    /// # Errors
    ///
    /// If the address is not plain HTTP.
    pub(crate) fn lists(url: &str, bucket: &str, prefixes: &[String]) -> Result<Self> {
        let host = url.strip_prefix("http://").context("the address must begin with http://")?;
        let request = |prefix: &String| {
            let prefix = utf8_percent_encode(prefix, NON_ALPHANUMERIC);
            format!(
                "GET /{bucket}?encoding-type=url&list-type=2&max-keys=1000&prefix={prefix} HTTP/1.1\r\n\
                 Host: {host}\r\n\r\n"
            )
            .into_bytes()
        };
        let object = |prefix: &String| Object { key: prefix.clone(), bytes: None };
        Ok(Self {
            host: host.to_owned(),
            objects: prefixes.iter().map(object).collect(),
            requests: prefixes.iter().map(request).collect(),
        })
    }

    /// Gets the objects at the places of `order` once, over so many connections. Blocks; `write` keeps
    /// them below a folder.
    ///
    /// # Errors
    ///
    /// The first object that did not come whole, with its key; or a signal.
    pub fn pass(&self, connections: usize, order: &[usize], write: Option<&Path>) -> Result<Pass> {
        ensure!(connections > 0, "it takes a connection to get anything");
        if let Some(folder) = write {
            self.make_folders(folder, order)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let next = AtomicUsize::new(0);
        let (cpu, started) = (cpu_seconds(), now());
        let shares = runtime.block_on(futures::future::try_join_all(
            (0..connections.min(order.len())).map(|_| self.connection(order, &next, write)),
        ))?;
        let seconds = started.elapsed().as_secs_f64();
        let mut pass = Pass { seconds, cpu_seconds: cpu_seconds() - cpu, ..Pass::default() };
        let mut latency = Histogram::default();
        for (files, bytes, part) in shares {
            pass.files += files;
            pass.bytes += bytes;
            latency.merge(&part);
        }
        pass.files_per_s = rate(pass.files as f64, seconds);
        pass.mb_per_s = rate(pass.bytes as f64 / 1e6, seconds);
        pass.latency = latency.latency();
        Ok(pass)
    }

    /// The number of connections with which a third of the objects comes quickest.
    ///
    /// # Errors
    ///
    /// As [`Self::pass`].
    pub fn best_connections(&self, candidates: &[usize]) -> Result<usize> {
        let order = Order::Random.of(self.objects.len(), 1, 0);
        let third = &order[..order.len().div_ceil(3)];
        let (mut best, mut connections) = (0.0, 1);
        for candidate in candidates {
            let pass = self.pass(*candidate, third, None)?;
            if pass.files_per_s > best {
                (best, connections) = (pass.files_per_s, *candidate);
            }
        }
        Ok(connections)
    }

    fn make_folders(&self, folder: &Path, order: &[usize]) -> Result<()> {
        for place in order {
            let key = Path::new(&self.objects[*place].key);
            let parent = folder.join(key.parent().unwrap_or(Path::new("")));
            if !parent.is_dir() {
                fs::create_dir_all(&parent)
                    .with_context(|| format!("create {}", parent.display()))?;
            }
        }
        Ok(())
    }

    /// One connection: takes the next object until there is none.
    async fn connection(
        &self,
        order: &[usize],
        next: &AtomicUsize,
        write: Option<&Path>,
    ) -> Result<(u64, u64, Histogram)> {
        let (mut files, mut total, mut latency) = (0, 0, Histogram::default());
        let mut wire = Wire { stream: None, buffer: vec![0; READ_BYTES] };
        while let Some(&place) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            crate::interrupt::check()?;
            let object = &self.objects[place];
            let file = write.map(|folder| folder.join(&object.key));
            let started = now();
            let got = wire.get(&self.host, &self.requests[place], file.as_deref());
            let got = tokio::time::timeout(OBJECT_TIME_MAX, got).await;
            let bytes = got
                .with_context(|| format!("{}: nothing within {OBJECT_TIME_MAX:?}", object.key))?
                .with_context(|| object.key.clone())?;
            latency.add(started.elapsed());
            let expected = object.bytes.unwrap_or(bytes);
            ensure!(bytes == expected, "{}: {bytes} bytes of {expected}", object.key);
            files += 1;
            total += bytes;
        }
        Ok((files, total, latency))
    }
}

/// A connection that is opened when it is needed, and kept.
struct Wire {
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Wire {
    /// Sends a request, reads the whole answer, and returns the length of its body.
    async fn get(&mut self, host: &str, request: &[u8], file: Option<&Path>) -> Result<u64> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(host).await.context("connect")?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        stream.write_all(request).await.context("send")?;
        let mut filled = 0;
        let head = loop {
            if let Some(head) = parse_head(&self.buffer[..filled])? {
                break head;
            }
            ensure!(filled < HEAD_BYTES_MAX, "an endless head");
            match stream.read(&mut self.buffer[filled..]).await? {
                0 => bail!("the connection was closed before an answer"),
                read => filled += read,
            }
        };
        let mut file = file.map(File::create).transpose().context("create the file")?;
        let mut keep = |bytes: &[u8]| file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        keep(&self.buffer[head.length..filled])?;
        let mut got = (filled - head.length) as u64;
        while got < head.body {
            match stream.read(&mut self.buffer).await? {
                0 => bail!("the connection was closed after {got} of {} bytes", head.body),
                read => {
                    keep(&self.buffer[..read])?;
                    got += read as u64;
                }
            }
        }
        ensure!(got == head.body, "more bytes than the answer's length");
        if head.closes {
            self.stream = None;
        }
        Ok(got)
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Bytes of the head itself.
    length: usize,
    /// Bytes of the body.
    body: u64,
    /// True if the server closes the connection afterwards.
    closes: bool,
}

/// `None` while the head is not complete; an error if it is not that of an object.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let (status, fields) = text.split_once("\r\n").unwrap_or((text, ""));
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is {status}");
    let mut head = Head { length: end + 4, body: 0, closes: false };
    let mut length = None;
    for field in fields.split("\r\n") {
        let Some((name, value)) = field.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    head.body = length.context("the answer does not say how long it is")?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_whole_and_only_of_objects() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nconnection: close\r\n\r\nbody";
        assert_eq!(parse_head(&text[..40]).expect("not whole"), None);
        let head = Head { length: text.len() - 4, body: 12, closes: true };
        assert_eq!(parse_head(text).expect("whole"), Some(head));
        let slow = parse_head(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n");
        assert!(slow.expect_err("no object").to_string().contains("503 Slow Down"));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
    }

    #[test]
    fn lines_have_a_key_and_perhaps_a_length() {
        let object = |key: &str, bytes| Object { key: key.to_owned(), bytes };
        assert_eq!(parse_line("12 a b"), object("a b", Some(12)));
        assert_eq!(parse_line("a b"), object("a b", None));
    }

    #[test]
    fn addresses_are_plain_http_with_a_bucket() {
        let object = Object { key: "a b/c".to_owned(), bytes: None };
        let fetch = Fetch::new("http://h:1/bucket/in/", vec![object]).expect("an address");
        assert!(fetch.requests[0].starts_with(b"GET /bucket/in/a%20b/c HTTP/1.1\r\nHost: h:1\r\n"));
        let lists = Fetch::lists("http://h:1", "bucket", &["n1/".to_owned()]).expect("an address");
        let text = std::str::from_utf8(&lists.requests[0]).expect("text");
        assert!(text.starts_with("GET /bucket?") && text.contains("&prefix=n1%2F HTTP/1.1\r\n"));
        assert!(Fetch::new("https://h/b", Vec::new()).is_err());
        assert!(Fetch::new("http://h", Vec::new()).is_err());
    }
}
