//! The bytes of frames.

use bytes::Bytes;
use odgm_log::{GroupId, NodeId};

use crate::transport::Class;
use crate::transport::frame::{ClusterId, FrameError, Header, Message, decode, encode};

fn header() -> Header {
    let (sender, recipient) = (NodeId(2), NodeId(3));
    Header { class: Class::Log, cluster: ClusterId(0x0102), sender, incarnation: 9, recipient }
}

fn messages() -> Vec<Message> {
    vec![
        Message::Request { id: 1, group: GroupId(5), left_ms: 250, bytes: Bytes::from_static(b"ask") },
        Message::Answer { id: 2, bytes: Bytes::from_static(b"yes") },
        Message::refusal(3, "no"),
    ]
}

fn frame() -> Vec<u8> {
    encode(&header(), messages().iter())
}

#[test]
fn a_frame_has_these_bytes() {
    let hex: String = frame().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = [
        "6f646746 01 01 0000000000000102 0000000000000002 0000000000000009 0000000000000003",
        "01 0000000000000001 00000005 000000fa 00000003 61736b",
        "02 0000000000000002 00000003 796573",
        "03 0000000000000003 00000002 6e6f",
    ];
    assert_eq!(hex, expected.concat().replace(' ', ""));
}

#[test]
fn the_cluster_of_a_name_stays_the_same() {
    assert_eq!(ClusterId::of("odgm"), ClusterId(0x44ff_cdeb_da8d_752b));
}

#[test]
fn what_was_written_is_read() {
    let (read, found) = decode(frame().into()).expect("a frame");
    assert_eq!((read, found.total()), (header(), 3));
    assert_eq!(found.collect::<Vec<_>>(), messages());
}

#[test]
fn a_part_of_a_frame_is_refused_or_has_fewer_messages() {
    let whole = frame();
    for end in 0..whole.len() {
        match decode(whole[..end].to_vec().into()) {
            Ok((_, found)) => assert!([38, 62, 78].contains(&end), "{} messages in {end}", found.total()),
            Err(error) => assert_eq!(error, FrameError::Short),
        }
    }
}

#[test]
fn other_formats_classes_and_kinds_are_named() {
    let with = |at: usize, byte: u8| {
        let mut bytes = frame();
        bytes[at] = byte;
        decode(bytes.into()).map(|_| ()).expect_err("not a frame")
    };
    assert_eq!(with(0, 0), FrameError::NotAFrame);
    assert_eq!(with(4, 2), FrameError::Version(2));
    assert_eq!(with(5, 3), FrameError::Class(3));
    assert_eq!(with(38, 9), FrameError::Kind(9));
    assert_eq!(with(55, 0xff), FrameError::Short);
}

#[test]
fn no_bytes_make_reading_panic() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let whole = frame();
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..next() % 6 + 1 {
            let at = usize::try_from(next()).expect("64 bits") % bytes.len();
            // Past the header more often than not, or nothing would be read of it.
            let at = if next() % 4 == 0 { at } else { 38 + at % (bytes.len() - 38) };
            bytes[at] = next().to_be_bytes()[0];
        }
        bytes.truncate(usize::try_from(next()).expect("64 bits") % (bytes.len() + 1));
        if let Ok((_, found)) = decode(bytes.into()) {
            assert_eq!(found.total(), found.count() as u64);
        }
        let noise: Vec<u8> = (0..next() % 64).map(|_| next().to_be_bytes()[0]).collect();
        assert!(decode(noise.into()).is_err());
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let Message::Refusal { reason, .. } = Message::refusal(1, &"é".repeat(600).replacen('é', "e", 1))
    else {
        panic!("not a refusal")
    };
    assert_eq!(reason.len(), 1_023);
    assert!(std::str::from_utf8(&reason).is_ok());
}
