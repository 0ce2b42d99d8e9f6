//! The S3 calls, byte by byte, on a folder and in memory.
#![expect(clippy::disallowed_methods, reason = "it measures a server on the real clock")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{ask, elements, get};
use feedline_s3sim::S3Sim;

/// Keys that a folder holds, and keys that none can.
const KEYS: [&str; 16] = [
    "a",
    "a/",
    "a/b",
    "a//b",
    "a/b/c",
    "../x",
    "./y",
    "tab\there",
    "é/ü",
    "x&y<z>",
    "d/1",
    "d/2",
    "d/3/4",
    "d!",
    "d0",
    "/lead",
];

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
}

/// Lists page by page and returns keys and common prefixes in the order they came.
fn listing(sim: &S3Sim, v2: bool, prefix: &str, delimiter: &str, page: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut next = String::new();
    loop {
        let (prefix, delimiter) = (encoded(prefix), encoded(delimiter));
        let version = if v2 { "&list-type=2" } else { "" };
        let path = format!(
            "/b?encoding-type=url&max-keys={page}&prefix={prefix}&delimiter={delimiter}{version}{next}"
        );
        let xml = get(sim, &path).text();
        let mut found = elements(&xml, "Key");
        for common in xml.split("<CommonPrefixes>").skip(1) {
            found.push(elements(common, "Prefix").swap_remove(0));
        }
        let mut found: Vec<String> = found.iter().map(|key| decoded(key)).collect();
        assert!(found.len() <= page, "a page of {} at {page}", found.len());
        found.sort();
        all.extend(found);
        if elements(&xml, "IsTruncated") == ["false"] {
            return all;
        }
        next = if v2 {
            format!("&continuation-token={}", encoded(&elements(&xml, "NextContinuationToken")[0]))
        } else {
            format!("&marker={}", elements(&xml, "NextMarker")[0])
        };
    }
}

/// What a listing should say, worked out the slow way.
fn expected(prefix: &str, delimiter: &str) -> Vec<String> {
    let mut set = BTreeSet::new();
    for key in KEYS {
        if let Some(rest) = key.strip_prefix(prefix) {
            let cut = if delimiter.is_empty() { None } else { rest.find(delimiter) };
            let end = cut.map_or(key.len(), |at| prefix.len() + at + delimiter.len());
            set.insert(key[..end].to_owned());
        }
    }
    set.into_iter().collect()
}

#[test]
fn every_key_is_kept_and_every_listing_agrees_with_a_plain_set() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for builder in [S3Sim::builder().empty(), S3Sim::builder().root(dir.path())] {
        let sim = builder.start().expect("a free port");
        for key in KEYS {
            sim.put_object("b", key, key);
        }
        for key in KEYS {
            let got = get(&sim, &format!("/b/{}", encoded(key)));
            assert_eq!((got.status, got.body), (200, key.as_bytes().to_vec()), "{key:?}");
        }
        for prefix in ["", "a", "a/", "d", "d/", "none"] {
            for delimiter in ["", "/"] {
                for page in [1, 2, 3, 1000] {
                    for v2 in [true, false] {
                        let found = listing(&sim, v2, prefix, delimiter, page);
                        let what = format!("{prefix:?} {delimiter:?} by {page}, v2 {v2}");
                        assert_eq!(found, expected(prefix, delimiter), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_key_never_leaves_its_bucket() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("b")).expect("a directory");
    fs::write(dir.path().join("secret"), "x").expect("a file");
    let sim = S3Sim::builder().root(&root).start().expect("a free port");
    assert_eq!(get(&sim, "/b/../../secret").status, 404);
    assert_eq!(get(&sim, "/b/%2e%2e/%2e%2e/secret").status, 404);
    assert_eq!(get(&sim, "/../secret").status, 404);
    sim.put_object("b", "../../made", "x");
    assert!(!dir.path().join("made").exists());
}

#[test]
fn ranges_and_conditions_answer_as_s3_does() {
    let sim = S3Sim::builder().start().expect("a free port");
    let tag = format!("\"{}\"", sim.put_object("b", "key", "0123456789"));
    let ask = |name, value| ask(&sim, "GET", "/b/key", &[(name, value)], b"");
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=5-99", 206, "56789", "bytes 5-9/10"),
        ("bytes=1-2,4-5", 200, "0123456789", ""),
        ("bytes=4-1", 200, "0123456789", ""),
    ] {
        let got = ask("range", range);
        assert_eq!((got.status, got.text().as_str()), (status, body), "{range}");
        assert_eq!(got.header("content-range"), content_range);
    }
    for range in ["bytes=10-", "bytes=-0"] {
        let got = ask("range", range);
        assert_eq!(got.status, 416, "{range}");
        assert!(got.text().contains("<Code>InvalidRange</Code>"));
    }
    assert_eq!(ask("if-match", &tag).status, 200);
    let refused = ask("if-match", "\"0\"");
    assert_eq!(refused.status, 412);
    assert!(refused.text().contains("<Code>PreconditionFailed</Code>"));
    let unchanged = ask("if-none-match", &tag);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
}

#[test]
fn what_is_not_there_is_named() {
    let sim = S3Sim::builder().start().expect("a free port");
    sim.create_bucket("b");
    assert!(get(&sim, "/b/none").text().contains("<Code>NoSuchKey</Code>"));
    assert!(get(&sim, "/none/none").text().contains("<Code>NoSuchBucket</Code>"));
    assert!(get(&sim, "/none?list-type=2").text().contains("<Code>NoSuchBucket</Code>"));
    let head = ask(&sim, "HEAD", "/b/none", &[], b"");
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn tags_outlive_the_server_and_change_with_the_object() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(dir.path().join("b")).expect("a directory");
    let file = dir.path().join("b/found");
    fs::write(&file, "same").expect("a file");
    let start = || S3Sim::builder().root(dir.path()).start().expect("a free port");
    let tag = |sim: &S3Sim, key: &str| {
        let tag = get(sim, &format!("/b/{key}")).header("etag").to_owned();
        // A listing says the same as a GET.
        let xml = get(sim, &format!("/b?prefix={key}")).text();
        assert_eq!(elements(&xml, "ETag"), [tag.replace('"', "&quot;")]);
        tag
    };
    let sim = start();
    let put = sim.put_object("b", "put", "one");
    let found = tag(&sim, "found");
    assert_eq!((found.len(), tag(&sim, "put")), (34, format!("\"{put}\"")));
    drop(sim);
    let sim = start();
    assert_eq!((tag(&sim, "found"), tag(&sim, "put")), (found.clone(), format!("\"{put}\"")));
    // Replaced by other means, with the same bytes:
    fs::write(dir.path().join("new"), "same").expect("a file");
    fs::rename(dir.path().join("new"), &file).expect("a rename");
    assert_ne!(tag(&sim, "found"), found);
    // and a stored object that is rewritten behind the server's back loses the tag of its bytes.
    fs::write(dir.path().join("b/put"), "two").expect("a file");
    sim.rescan("b");
    assert_ne!(tag(&sim, "put"), format!("\"{put}\""));
}

#[test]
fn a_listing_notices_files_that_come_and_go_by_other_means() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(dir.path().join("b/deep")).expect("a directory");
    let sim = S3Sim::builder().root(dir.path()).start().expect("a free port");
    let keys = |path: &str| elements(&get(&sim, path).text(), "Key");
    assert!(keys("/b").is_empty());
    fs::create_dir(dir.path().join("b/new")).expect("a directory");
    fs::write(dir.path().join("b/new/one"), "x").expect("a file");
    assert_eq!(keys("/b?prefix=new/&delimiter=/"), ["new/one"]);
    fs::write(dir.path().join("b/deep/two"), "x").expect("a file");
    assert_eq!(keys("/b"), ["deep/two", "new/one"]);
    fs::remove_file(dir.path().join("b/new/one")).expect("a file");
    assert_eq!(keys("/b"), ["deep/two"]);
    sim.put_object("b", "deep/three", "x");
    sim.delete_object("b", "deep/two");
    assert_eq!(keys("/b"), ["deep/three"]);
}

#[test]
fn counters_say_what_was_asked_by_verb_and_by_key() {
    let sim = S3Sim::builder().start().expect("a free port");
    sim.put_object("b", "key", vec![0; 1_000]);
    ask(&sim, "PUT", "/b/other", &[], b"12345");
    get(&sim, "/b/key");
    ask(&sim, "GET", "/b/key", &[("range", "bytes=0-9")], b"");
    ask(&sim, "HEAD", "/b/key", &[], b"");
    ask(&sim, "DELETE", "/b/other", &[], b"");
    get(&sim, "/b/none");
    let stats = sim.stats();
    assert_eq!((stats.get, stats.head, stats.put, stats.delete), (3, 1, 1, 1));
    assert_eq!((stats.bytes_in, stats.by_status[&206], stats.requests()), (5, 1, 6));
    assert_eq!(sim.gets_by_key(), [("b/key".to_owned(), 2)].into());
    assert!(stats.bytes_out >= 1_010);
    let json = get(&sim, "/__stats").text();
    assert_eq!(serde_json::from_str::<feedline_s3sim::Stats>(&json).expect("JSON").get, 3);
    assert_eq!(ask(&sim, "POST", "/__stats/reset", &[], b"").status, 204);
    assert_eq!((sim.stats().requests(), sim.gets_by_key().len()), (0, 0));
}

/// Waits until so many requests are being served; far above any wait here is the patience.
fn until_in_flight(sim: &S3Sim, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while sim.stats().in_flight != wanted {
        assert!(Instant::now() < deadline, "{} in flight, not {wanted}", sim.stats().in_flight);
        std::thread::yield_now();
    }
}

#[test]
fn requests_at_one_time_are_counted_at_their_most() {
    // Given answers that no test waits for, so that every request stays in flight,
    let sim = S3Sim::builder().latency(Duration::from_secs(3600)).start().expect("a free port");
    sim.put_object("b", "key", "x");
    let ask = || {
        let mut stream = TcpStream::connect(sim.address()).expect("the server listens");
        stream.write_all(b"GET /b/key HTTP/1.1\r\nhost: h\r\n\r\n").expect("sent");
        stream
    };
    // when four are sent and their clients go away, and then one more is sent,
    let streams: Vec<_> = std::iter::repeat_with(ask).take(4).collect();
    until_in_flight(&sim, 4);
    drop(streams);
    until_in_flight(&sim, 0);
    let _stream = ask();
    until_in_flight(&sim, 1);
    // then four were the most, until the counters begin anew.
    assert_eq!(sim.stats().in_flight_max, 4);
    sim.reset_stats();
    assert_eq!(sim.stats().in_flight_max, 1);
}

#[tokio::test]
async fn it_serves_a_test_that_blocks_its_only_thread() {
    let sim = S3Sim::builder().start().expect("a free port");
    sim.put_object("b", "key", "x");
    assert_eq!(get(&sim, "/b/key").status, 200);
}

#[test]
fn an_upload_whose_bytes_do_not_match_their_hash_is_refused() {
    let sim = S3Sim::builder().start().expect("a free port");
    sim.create_bucket("b");
    let wrong = "0".repeat(64);
    let put = |name, value| ask(&sim, "PUT", "/b/key", &[(name, value)], b"hello");
    assert!(put("x-amz-content-sha256", &wrong).text().contains("XAmzContentSHA256Mismatch"));
    assert!(put("content-md5", "AAAA").text().contains("BadDigest"));
    assert_eq!(get(&sim, "/b/key").status, 404);
    assert_eq!(put("content-md5", "XUFAKrxLKna5cZ2REBfFkg==").status, 200);
    // Create only: a second one must not replace it.
    assert_eq!(put("if-none-match", "*").status, 412);
}

#[test]
fn unsigned_and_wrongly_signed_requests_are_refused() {
    let sim = S3Sim::builder().credentials("key", "secret").start().expect("a free port");
    sim.put_object("b", "key", "x");
    let refused = |authorization: &str| {
        let got = ask(&sim, "GET", "/b/key", &[("authorization", authorization)], b"");
        assert_eq!(got.status, 403);
        elements(&got.text(), "Code").swap_remove(0)
    };
    let scope = "20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
    assert_eq!(refused("none"), "AccessDenied");
    assert_eq!(
        refused(&format!("AWS4-HMAC-SHA256 Credential=other/{scope}")),
        "InvalidAccessKeyId"
    );
    let signed = format!("AWS4-HMAC-SHA256 Credential=key/{scope}");
    assert_eq!(refused(&signed), "SignatureDoesNotMatch");
}

#[test]
fn a_bucket_of_made_up_names_is_listed_as_any_other_and_its_objects_are_what_the_listing_says() {
    let sim = S3Sim::builder().names(2_345).start().expect("a server");
    let page = |query: &str| get(&sim, &format!("/names?list-type=2{query}")).text();
    let first = page("&delimiter=/");
    let folders: Vec<String> = elements(&first, "CommonPrefixes")
        .iter()
        .map(|it| elements(it, "Prefix").remove(0))
        .collect();
    assert_eq!(folders, ["n00000000/", "n00000001/", "n00000002/"]);
    assert_eq!(elements(&first, "IsTruncated"), ["false"]);
    let mut all = Vec::new();
    for folder in &folders {
        let xml = page(&format!("&prefix={folder}"));
        assert_eq!(elements(&xml, "IsTruncated"), ["false"], "one LIST a folder");
        all.extend(elements(&xml, "Key"));
    }
    // The same without folders, page by page.
    let (mut flat, mut next) = (Vec::new(), String::new());
    loop {
        let xml = page(&format!("&max-keys=700{next}"));
        flat.extend(elements(&xml, "Key"));
        let Some(token) = elements(&xml, "NextContinuationToken").pop() else { break };
        next = format!("&continuation-token={}", encoded(&token));
    }
    assert!(
        flat == all && all.len() == 2_345 && all.is_sorted(),
        "{} and {}",
        flat.len(),
        all.len()
    );
    assert_eq!(elements(&page(&format!("&start-after={}", all[2_000])), "Key"), all[2_001..]);

    let key = &all[1_234];
    let xml = page(&format!("&prefix={key}"));
    let got = get(&sim, &format!("/names/{key}"));
    assert_eq!(got.body.len().to_string(), elements(&xml, "Size")[0]);
    assert_eq!(
        got.header("etag").trim_matches('"'),
        elements(&xml, "ETag")[0].replace("&quot;", "")
    );
    assert_eq!(got.body[..16], [1_234_u64.to_le_bytes(); 2].concat());
    assert_eq!(get(&sim, &format!("/names/{}", all[0].replace("0.JPEG", "x.JPEG"))).status, 404);
    assert_eq!(get(&sim, "/names/n00000002/ILSVRC2012_val_00002345.JPEG").status, 404, "the end");
    assert_eq!(get(&sim, "/names/n00000000/ILSVRC2012_val_00001234.JPEG").status, 404, "elsewhere");
    assert_eq!(ask(&sim, "PUT", "/names/new", &[], b"x").status, 501);
    assert_eq!(ask(&sim, "POST", "/names/new?uploads", &[], b"").status, 501);
    assert_eq!(ask(&sim, "DELETE", &format!("/names/{key}"), &[], b"").status, 501);
}
