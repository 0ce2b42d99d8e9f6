//! What crosses the wire comes back as it was, or is refused.

use super::*;

fn object(etag: ETag) -> Object {
    let version = Version { size: 10, modified_ms: -5, etag };
    Object { source: SourceId(u64::MAX), key: "tr\"äin/\u{1}".into(), version }
}

fn sent(kind: FrameKind, index: u32, payload: &'static [u8]) -> Vec<u8> {
    [&head(kind, index, payload)[..], payload].concat()
}

#[test]
fn an_item_survives_the_way_and_names_the_same_version() {
    let md5 = "0123456789abcdef0123456789abcdef";
    for etag in [ETag::Absent, ETag::parse(md5), ETag::parse("abc-2"), ETag::parse("W/\"x")] {
        let object = object(etag);
        let item = Item::new(&object, &object.id(), &(2..7));
        let text = serde_json::to_vec(&item).unwrap();
        let item: Item = serde_json::from_slice(&text).unwrap();
        assert_eq!(item.read(), Ok((object.clone(), object.id(), 2..7)));
    }
}

#[test]
fn an_item_of_another_version_or_beyond_the_object_is_refused() {
    let object = object(ETag::parse("a"));
    let good = Item::new(&object, &object.id(), &(0..10));
    assert!(good.clone().read().is_ok());
    let bad = [
        Item { etag: Some("b".into()), ..good.clone() },
        Item { size: 11, ..good.clone() },
        Item { end: 11, ..good.clone() },
        Item { start: 10, ..good.clone() },
        Item { start: 11, end: 3, ..good.clone() },
    ];
    for item in bad {
        assert!(item.clone().read().is_err(), "{item:?}");
    }
    let version = Version { size: 1 << 40, modified_ms: 0, etag: ETag::Absent };
    let large = Object { version, ..object };
    let item = Item::new(&large, &large.id(), &(0..ITEM_BYTES_MAX + 1));
    assert!(item.read().is_err());
}

#[test]
fn a_stream_is_the_same_frames_however_it_is_cut() {
    let stream = Bytes::from(
        [
            sent(FrameKind::Waiting, 0, b"\0"),
            sent(FrameKind::Bytes, 3, b"hello, peer"),
            sent(FrameKind::Fault, 1, b"{}"),
            sent(FrameKind::Bytes, 2, b""),
        ]
        .concat(),
    );
    for step in [1, 2, 7, 13, 14, 1_000] {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for piece in stream.chunks(step) {
            frames.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = frames.next(|_, index, _| index < 4).unwrap() {
                found.push((frame.kind, frame.index, frame.payload.to_vec()));
            }
        }
        assert!(frames.is_at_a_boundary());
        assert_eq!(found.len(), 4);
        assert_eq!(found[1], (FrameKind::Bytes, 3, b"hello, peer".to_vec()));
        assert_eq!(found[2], (FrameKind::Fault, 1, b"{}".to_vec()));
    }
}

#[test]
fn what_comes_in_one_piece_is_not_copied() {
    let payload = Bytes::from_static(b"a whole object");
    let mut frames = Frames::default();
    frames.push(head(FrameKind::Bytes, 0, &payload));
    frames.push(payload.clone());
    let frame = frames.next(|_, _, _| true).unwrap().unwrap();
    assert_eq!(frame.payload.as_ptr(), payload.as_ptr());
}

#[test]
fn garbage_is_found_before_it_is_kept() {
    let next = |bytes: &[u8]| {
        let mut frames = Frames::default();
        frames.push(Bytes::copy_from_slice(bytes));
        frames.next(|kind, index, length| kind == FrameKind::Bytes && index == 0 && length == 3)
    };
    let good = sent(FrameKind::Bytes, 0, b"abc");
    assert!(next(&good).unwrap().is_some());
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [
        flipped,
        sent(FrameKind::Bytes, 1, b"abc"),
        sent(FrameKind::Bytes, 0, b"ab"),
        sent(FrameKind::Fault, 0, b"abc"),
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        [&[1, 0, 0, 0, 0, 255, 255, 255, 255][..], &[0; 4]].concat(),
    ] {
        assert!(next(&bad).is_err(), "{bad:?}");
    }
    let mut cut = Frames::default();
    cut.push(Bytes::copy_from_slice(&good[..good.len() - 1]));
    assert_eq!(cut.next(|_, _, _| true), Ok(None));
    assert!(!cut.is_at_a_boundary(), "a stream that ends here was cut");
}

#[test]
fn a_bit_that_flips_anywhere_in_a_frame_is_noticed() {
    let next = |stream: &[u8]| {
        let mut frames = Frames::default();
        frames.push(Bytes::copy_from_slice(stream));
        frames.next(|_, _, _| true)
    };
    let after = sent(FrameKind::Bytes, 3, b"hello, peer");
    for frame in [
        sent(FrameKind::Bytes, 2, b"hello, node"),
        sent(FrameKind::Bytes, 0, b""),
        sent(FrameKind::Waiting, 0, b"\0"),
        sent(FrameKind::Said, 1, b"{}"),
    ] {
        let stream = [frame.clone(), after.repeat(100)].concat();
        assert!(next(&stream).unwrap().is_some());
        for bit in 0..frame.len() * 8 {
            let mut flipped = stream.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Or it waits for more than will come.
            assert!(!matches!(next(&flipped), Ok(Some(_))), "bit {bit} of {frame:?}");
        }
    }
}

#[test]
fn the_checksum_recorded_of_bytes_is_continued_over_the_head() {
    let Summed { bytes, crc } = summed(Bytes::from_static(b"a whole object"));
    let made = head_of(FrameKind::Bytes, 7, bytes.len(), crc);
    assert_eq!(made, head(FrameKind::Bytes, 7, &bytes));
    let all = [&bytes[..], &made[..SAID_BYTES]].concat();
    assert_eq!(made[SAID_BYTES..], crc32c::crc32c(&all).to_le_bytes());
}

#[test]
fn hexadecimal_digits_come_back() {
    let bytes: [u8; 32] = std::array::from_fn(|at| at as u8 * 7 + 30);
    assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
    let (short, signed, other) = ("ab", "+f".repeat(32), "zz".repeat(32));
    for bad in [short, &signed, &other, &"é".repeat(32)] {
        assert_eq!(from_hex(bad), None);
    }
}
