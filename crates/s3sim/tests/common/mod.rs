//! A client too simple to hide anything: one request, one connection, what came and how it ended.
#![expect(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use feedline_s3sim::S3Sim;

/// Far above any answer here: a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole,
    Short,
    Reset,
}

/// What came.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

/// Sends one request with the headers given and reads until the server closes.
pub fn ask(sim: &S3Sim, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
    let mut stream = TcpStream::connect(sim.address()).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", sim.address());
    head.push_str(&format!("connection: close\r\ncontent-length: {}\r\n", body.len()));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).expect("the head is sent");
    stream.write_all(body).expect("the body is sent");
    let (mut raw, mut chunk, mut reset) = (Vec::new(), vec![0; 64 * 1024], false);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(bytes) => raw.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                reset = true;
                break;
            }
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }
    parse(&raw, method == "HEAD", reset)
}

fn parse(raw: &[u8], bodiless: bool, reset: bool) -> Got {
    let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else {
        let end = if reset { End::Reset } else { End::Short };
        return Got { status: 0, headers: Vec::new(), body: Vec::new(), end };
    };
    let head = std::str::from_utf8(&raw[..end]).expect("heads are text");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: Vec<_> = headers.map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, length)| length.parse().expect("a number"));
    let body = raw[end + 4..].to_vec();
    let whole = bodiless || body.len() == length;
    let end = match (whole, reset) {
        (_, true) => End::Reset,
        (true, false) => End::Whole,
        (false, false) => End::Short,
    };
    Got { status: status.parse().expect("a number"), headers, body, end }
}

/// GET without further headers.
pub fn get(sim: &S3Sim, path: &str) -> Got {
    ask(sim, "GET", path, &[], b"")
}

/// The text of each element of this name.
pub fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let after = xml.split(&open).skip(1);
    after.map(|rest| rest.split(&close).next().unwrap_or_default().to_owned()).collect()
}
