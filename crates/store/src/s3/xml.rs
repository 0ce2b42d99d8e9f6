//! The two XML documents of S3 that are read: a page of a listing and an error.
//!
//! Read event by event: `Contents` and `CommonPrefixes` may alternate, and a page is on the path of
//! every cold start.
//!
//! # Invariants
//!
//! - Keys come out exactly as the store has them, spaces at their ends included.

use std::borrow::Cow;

use feedline_model::{ETag, ListPage, ListedObject, Version};
use percent_encoding::percent_decode_str;
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use crate::failure::{Failure, StatusAnswer};

/// Calls `visit(path, text)` for each element that has no elements below it; `path` joins the local
/// names by slashes, without the root's. An element that has some is visited with text `None`.
fn walk(
    document: &str,
    mut visit: impl FnMut(&str, Option<&str>) -> Result<(), String>,
) -> Result<String, String> {
    let mut reader = Reader::from_str(document);
    let (mut root, mut path, mut text) = (String::new(), String::new(), String::new());
    let mut depth = 0_usize;
    let mut leaf = false;
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(element) => {
                let name = element.local_name().into_inner().to_owned();
                open(&mut root, &mut path, depth, &name);
                depth += 1;
                text.clear();
                leaf = true;
            }
            Event::Empty(element) => {
                let name = element.local_name().into_inner().to_owned();
                open(&mut root, &mut path, depth, &name);
                if depth > 0 {
                    visit(&path, Some(""))?;
                    close(&mut path);
                }
                leaf = false;
            }
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(reference) => {
                match reference.resolve_char_ref().map_err(|e| e.to_string())? {
                    Some(character) => text.push(character),
                    None => text.push_str(
                        resolve_predefined_entity(&reference)
                            .ok_or_else(|| format!("unknown entity {:?}", &*reference))?,
                    ),
                }
            }
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or("an element ends that never began")?;
                if depth > 0 {
                    visit(&path, leaf.then_some(text.as_str()))?;
                    close(&mut path);
                }
                leaf = false;
            }
            Event::Eof if depth == 0 && !root.is_empty() => return Ok(root),
            Event::Eof => return Err("the document ends early".into()),
            _ => {}
        }
    }
}

fn open(root: &mut String, path: &mut String, depth: usize, name: &str) {
    if depth == 0 {
        name.clone_into(root);
        return;
    }
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(name);
}

fn close(path: &mut String) {
    path.truncate(path.rfind('/').unwrap_or(0));
}

/// Reads a `ListBucketResult`.
pub(crate) fn parse_list(document: &[u8]) -> Result<ListPage, Failure> {
    let malformed = |why: String| Failure::Malformed(format!("a listing that is none: {why}"));
    let text = std::str::from_utf8(document).map_err(|e| malformed(e.to_string()))?;
    let mut page = ListPage::default();
    let (mut encoded, mut truncated) = (false, false);
    let (mut key, mut size, mut modified_ms, mut etag) = (String::new(), None, None, ETag::Absent);
    let root = walk(text, |path, text| {
        let value = text.unwrap_or_default();
        match path {
            "EncodingType" => encoded = value == "url",
            "IsTruncated" => truncated = value == "true",
            "NextContinuationToken" => page.next = Some(value.to_owned()),
            "Contents/Key" => value.clone_into(&mut key),
            "Contents/Size" => size = Some(value.parse().map_err(|_| format!("size {value:?}"))?),
            "Contents/LastModified" => modified_ms = parse_time_ms(value),
            "Contents/ETag" => etag = tag(value),
            "Contents" => {
                let version = Version {
                    size: size.take().ok_or_else(|| format!("{key:?} has no size"))?,
                    modified_ms: modified_ms
                        .take()
                        .ok_or_else(|| format!("{key:?} has no time"))?,
                    etag: std::mem::replace(&mut etag, ETag::Absent),
                };
                page.objects.push(ListedObject { key: std::mem::take(&mut key), version });
            }
            "CommonPrefixes/Prefix" => page.prefixes.push(value.to_owned()),
            _ => {}
        }
        Ok(())
    })
    .map_err(malformed)?;
    if root != "ListBucketResult" {
        return Err(malformed(format!("the document is a {root:?}; is this an S3 endpoint?")));
    }
    if !truncated {
        page.next = None;
    } else if page.next.is_none() {
        return Err(malformed("it goes on but has no token".into()));
    }
    // The encoding may be named after the keys.
    if encoded {
        for object in &mut page.objects {
            object.key = decode(&object.key)?;
        }
        for prefix in &mut page.prefixes {
            *prefix = decode(prefix)?;
        }
    }
    Ok(page)
}

/// A tag of a listing; a weak one keeps its mark, since no request can be pinned to it.
fn tag(text: &str) -> ETag {
    match text.trim().strip_prefix("W/") {
        Some(weak) => ETag::Other(format!("W/{}", weak.trim_matches('"')).into()),
        None => ETag::parse(text),
    }
}

/// Undoes `encoding-type=url`, in which S3 writes a space as `+` and a plus as `%2B`.
fn decode(text: &str) -> Result<String, Failure> {
    let spaced: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| Failure::Malformed(format!("a listing with the key {text:?}: not UTF-8")))
}

/// Adds code, message and region of an error document to `answer`; what is no such document is
/// left out, since the status says enough.
pub(crate) fn parse_error(document: &[u8], answer: &mut StatusAnswer) {
    let Ok(text) = std::str::from_utf8(document) else { return };
    let mut found = answer.clone();
    let root = walk(text, |path, text| {
        let value = text.unwrap_or_default();
        match path {
            "Code" => value.clone_into(&mut found.code),
            "Message" => value.clone_into(&mut found.message),
            "Region" => found.region = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    });
    if root.as_deref() == Ok("Error") {
        *answer = found;
    }
}

/// Milliseconds since 1970 of `2024-01-31T08:09:10.123Z`.
pub(crate) fn parse_time_ms(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?.strip_suffix('Z')?;
    let millis = match rest.strip_prefix('.') {
        Some(digits) => {
            format!("{digits:0<3}").get(..3).and_then(|three| three.parse::<i64>().ok())?
        }
        None if rest.is_empty() => 0,
        None => return None,
    };
    // Days since 1970 by the civil calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time_ms("2000-02-29T12:00:00.5Z"), Some(951_825_600_500));
        assert_eq!(parse_time_ms("2023-11-14T22:13:20.000Z"), Some(1_700_000_000_000));
        assert_eq!(parse_time_ms("yesterday"), None);
    }

    #[test]
    fn a_page_keeps_every_key_as_it_is() {
        let page = parse_list(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Name>b</Name><Prefix></Prefix><Delimiter/>
              <IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1</NextContinuationToken>
              <Contents><Key>a%2F%2Fb+c%2Bd%0A</Key><LastModified>1970-01-01T00:00:01.000Z</LastModified>
                <ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>5</Size>
                <Owner><ID>x</ID></Owner></Contents>
              <CommonPrefixes><Prefix>%C3%BC/</Prefix></CommonPrefixes>
              <Contents><Key>../x</Key><LastModified>1970-01-01T00:00:02Z</LastModified>
                <ETag>&#34;q-2&#34;</ETag><Size>0</Size></Contents>
              <EncodingType>url</EncodingType>
            </ListBucketResult>"#,
        )
        .expect("a page");
        assert_eq!(page.objects[0].key, "a//b c+d\n");
        assert_eq!(page.objects[0].version.size, 5);
        assert_eq!(page.objects[0].version.modified_ms, 1000);
        let tag = "0123456789abcdef0123456789abcdef";
        assert_eq!(page.objects[0].version.etag.text().as_deref(), Some(tag));
        assert_eq!(page.objects[1].key, "../x");
        assert_eq!(page.objects[1].version.etag, ETag::Other("q-2".into()));
        assert_eq!(page.prefixes, ["ü/"]);
        assert_eq!(page.next.as_deref(), Some("t&1"));
    }

    #[test]
    fn without_an_encoding_a_key_is_taken_as_written() {
        let page = parse_list(
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key> a+%41&lt; </Key>\
              <LastModified>1970-01-01T00:00:00Z</LastModified><Size>1</Size></Contents></ListBucketResult>",
        )
        .expect("a page");
        assert_eq!(page.objects[0].key, " a+%41< ");
        assert_eq!(page.objects[0].version.etag, ETag::Absent);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        for text in [
            "",
            "<html></html>",
            "<ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        ] {
            assert!(parse_list(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
