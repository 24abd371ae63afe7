//! What is wrong is refused with a code and a message that says what was expected. Nothing panics.

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{
    Cursors, DumpLogRequest, GetAtRequest, HistoryRequest, MoveCursorRequest, SubscribeRequest,
    VerifyRequest, get_at_request,
};
use odgm_proto::oprc::{
    BatchSetValuesRequest, ListObjectsRequest, ListValuesRequest, SetKeyRequest, SetObjectRequest,
    SingleKeyRequest, SingleObjectRequest,
};
use odgm_tests::harness::{Connection, Home, text};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use crate::Story;

/// The refusals of a story, one in each line.
#[derive(Default)]
struct Refusals(String);

impl Refusals {
    fn note<T>(&mut self, what: &str, answer: Result<T, Status>) {
        let line = match answer {
            Ok(_) => "ACCEPTED".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        self.0 += &format!("{what} -> {line}\n");
    }
}

fn object(id: &str) -> SingleObjectRequest {
    SingleObjectRequest { cls_id: "things".into(), object_id_str: Some(id.into()), ..Default::default() }
}

fn entry(id: &str, key: &str) -> SingleKeyRequest {
    SingleKeyRequest {
        cls_id: "things".into(),
        object_id_str: Some(id.into()),
        key_str: Some(key.into()),
        ..Default::default()
    }
}

fn write(id: &str, key: &str) -> SetKeyRequest {
    SetKeyRequest {
        cls_id: "things".into(),
        object_id_str: Some(id.into()),
        key_str: Some(key.into()),
        value: Some(text("v")),
        ..Default::default()
    }
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let Connection { mut data, .. } = node.connection();
    let mut refusals = Refusals::default();
    let long = "a".repeat(161);
    let longest = "a".repeat(160);

    data.set_value(write(&longest, &longest)).await?;
    refusals.note("id of 161 bytes", data.set_value(write(&long, "k")).await);
    refusals.note("key of 161 bytes", data.set_value(write("a", &long)).await);
    refusals.note("empty id", data.get(object("")).await);
    refusals.note("empty key", data.get_value(entry("a", "")).await);
    refusals.note("space in an id", data.delete(object("a b")).await);
    refusals.note("slash in a key", data.delete_value(entry("a", "x/y")).await);
    refusals.note("not ASCII", data.get(object("größe")).await);
    refusals.note("NUL", data.get(object("a\0b")).await);
    let batch = BatchSetValuesRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        values: [("good".into(), text("1")), ("not good".into(), text("2"))].into(),
        ..Default::default()
    };
    refusals.note("bad key in a batch", data.batch_set_values(batch).await);
    let bad_key = SetObjectRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        object: Some(odgm_proto::oprc::ObjData {
            entries_str: [("no good".to_owned(), text("1"))].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    refusals.note("bad key in a set", data.set(bad_key.clone()).await);
    refusals.note("bad key in a merge", data.merge(bad_key).await);
    let list = ListObjectsRequest {
        cls_id: "things".into(),
        object_id_prefix: Some("A b".into()),
        ..Default::default()
    };
    refusals.note("bad prefix", data.list_objects(list).await);
    insta::assert_snapshot!(refusals.0, @r#"
    id of 161 bytes -> InvalidArgument: invalid object_id of 161 bytes: expected 1 to 160 bytes of a-z 0-9 . _ : -
    key of 161 bytes -> InvalidArgument: invalid key of 161 bytes: expected 1 to 160 bytes of a-z 0-9 . _ : -
    empty id -> InvalidArgument: object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    empty key -> InvalidArgument: key required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    space in an id -> InvalidArgument: invalid object_id "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    slash in a key -> InvalidArgument: invalid key "x/y": '/' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    not ASCII -> InvalidArgument: invalid object_id "größe": 'ö' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    NUL -> InvalidArgument: invalid object_id "a\0b": '\0' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    bad key in a batch -> InvalidArgument: invalid key "not good": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    bad key in a set -> InvalidArgument: invalid key "no good": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    bad key in a merge -> InvalidArgument: invalid key "no good": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    bad prefix -> InvalidArgument: invalid prefix "A b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    "#);
    assert_eq!(
        node.objects("things", 0).get("a").await.expect_err("nothing was written").code(),
        Code::NotFound
    );
    Ok(())
}

#[tokio::test]
async fn places_that_cannot_be_are_refused_and_places_that_are_not_are_not_found() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    let Connection { mut data, mut streams, mut admin, .. } = node.connection();
    let mut refusals = Refusals::default();

    refusals.note(
        "negative partition",
        data.set_value(SetKeyRequest { partition_id: -1, ..write("a", "k") }).await,
    );
    refusals.note(
        "lowest partition",
        data.set_value(SetKeyRequest { partition_id: i32::MIN, ..write("a", "k") }).await,
    );
    refusals.note(
        "partition 65,536",
        data.get(SingleObjectRequest { partition_id: 65_536, ..object("a") }).await,
    );
    refusals.note(
        "largest partition",
        data.get(SingleObjectRequest { partition_id: u32::MAX, ..object("a") }).await,
    );
    refusals.note(
        "partition 2 of 2",
        data.get_value(SingleKeyRequest { partition_id: 2, ..entry("a", "k") }).await,
    );
    refusals.note(
        "unknown class",
        data.get(SingleObjectRequest { cls_id: "nothing".into(), ..object("a") }).await,
    );
    refusals.note("no class", data.get(SingleObjectRequest { cls_id: String::new(), ..object("a") }).await);
    let elsewhere = SetKeyRequest { cls_id: "nothing".into(), ..write("a", "k") };
    refusals.note("write to an unknown class", data.set_value(elsewhere).await);
    let watch = SubscribeRequest { cls_id: "nothing".into(), ..Default::default() };
    refusals.note("watch of an unknown class", streams.subscribe(watch).await);
    let watch = SubscribeRequest { cls_id: "things".into(), partitions: vec![0, 7], ..Default::default() };
    refusals.note("watch of partition 7", streams.subscribe(watch).await);
    let verify = VerifyRequest { cls_id: "nothing".into(), partition_id: None };
    refusals.note("verify of an unknown class", admin.verify(verify).await);
    let dump = DumpLogRequest { cls_id: "things".into(), partition_id: 9, ..Default::default() };
    refusals.note("dump of partition 9", admin.dump_log(dump).await);
    insta::assert_snapshot!(refusals.0, @r#"
    negative partition -> InvalidArgument: invalid partition_id -1: expected 0 to 65535
    lowest partition -> InvalidArgument: invalid partition_id -2147483648: expected 0 to 65535
    partition 65,536 -> InvalidArgument: invalid partition_id 65536: expected 0 to 65535
    largest partition -> InvalidArgument: invalid partition_id 4294967295: expected 0 to 65535
    partition 2 of 2 -> NotFound: collection "things" has 2 partitions, 0 to 1: there is no partition 2
    unknown class -> NotFound: there is no collection "nothing"
    no class -> NotFound: there is no collection ""
    write to an unknown class -> NotFound: there is no collection "nothing"
    watch of an unknown class -> NotFound: there is no collection "nothing"
    watch of partition 7 -> NotFound: collection "things" has 2 partitions, 0 to 1: there is no partition 7
    verify of an unknown class -> NotFound: there is no collection "nothing"
    dump of partition 9 -> NotFound: collection "things" has 2 partitions, 0 to 1: there is no partition 9
    "#);
    Ok(())
}

#[tokio::test]
async fn requests_that_say_too_little_or_contradict_themselves_are_refused() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let Connection { mut data, mut streams, .. } = node.connection();
    let mut refusals = Refusals::default();
    node.objects("things", 0).set("a", &[("k", "v")]).await?;

    let nothing = SetObjectRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        object: None,
        ..Default::default()
    };
    refusals.note("set without an object", data.set(nothing.clone()).await);
    refusals.note("merge without an object", data.merge(nothing).await);
    refusals.note(
        "write without a value",
        data.set_value(SetKeyRequest { value: None, ..write("a", "k") }).await,
    );
    let unknown_type = odgm_proto::oprc::ValData { data: "x".into(), r#type: 9 };
    let unknown_type = SetKeyRequest { value: Some(unknown_type), ..write("a", "k") };
    refusals.note("value of an unknown type", data.set_value(unknown_type).await);
    let both = BatchSetValuesRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        values: [("k".into(), text("1"))].into(),
        delete_keys: vec!["K".into()],
        ..Default::default()
    };
    refusals.note("a key both put and deleted", data.batch_set_values(both).await);
    let twice = BatchSetValuesRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        values: [("k".into(), text("1")), ("K".into(), text("2"))].into(),
        ..Default::default()
    };
    refusals.note("a key put twice", data.batch_set_values(twice).await);
    let at_nothing = GetAtRequest { cls_id: "things".into(), object_id: "a".into(), ..Default::default() };
    refusals.note("get at no place", streams.get_at(at_nothing.clone()).await);
    let future = GetAtRequest { at: Some(get_at_request::At::Offset(u64::MAX)), ..at_nothing };
    refusals.note("get at an offset to come", streams.get_at(future).await);
    let history = HistoryRequest { cls_id: "things".into(), ..Default::default() };
    refusals.note("history of nothing", streams.history(history).await);
    let cursor = MoveCursorRequest { cls_id: "things".into(), name: "no name".into(), ..Default::default() };
    refusals.note("cursor with a bad name", streams.move_cursor(cursor.clone()).await);
    let ahead = MoveCursorRequest { name: "me".into(), offset: 1_000_000, ..cursor };
    refusals.note("cursor beyond the head", streams.move_cursor(ahead).await);
    insta::assert_snapshot!(refusals.0, @r#"
    set without an object -> InvalidArgument: object required: expected an ObjData, which may be empty
    merge without an object -> InvalidArgument: object required: expected an ObjData, which may be empty
    write without a value -> InvalidArgument: value required: expected a ValData
    value of an unknown type -> InvalidArgument: value of type 9: expected 0 (BYTE) or 1 (CRDT_MAP)
    a key both put and deleted -> InvalidArgument: key "k" is both put and deleted: expected each key in one of values and delete_keys
    a key put twice -> InvalidArgument: key "k" is given twice: keys are lowered, so expected keys that differ in more than case
    get at no place -> InvalidArgument: at required: expected offset or time_ms
    get at an offset to come -> OutOfRange: offset 18446744073709551615 is not applied yet: the view is at 3
    history of nothing -> InvalidArgument: object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    cursor with a bad name -> InvalidArgument: invalid cursor name "no name": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    cursor beyond the head -> InvalidArgument: offset 1000000 is beyond the head 3: expected an offset that has been seen
    "#);
    Ok(())
}

#[tokio::test]
async fn garbage_is_no_cursor_and_no_metadata() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    let Connection { mut data, mut streams, .. } = node.connection();
    let mut refusals = Refusals::default();

    for garbage in [&b""[..], b"x", b"garbage garbage garbage", &[0xff; 4096]] {
        let what = format!("cursor of {} bytes", garbage.len());
        let list = ListObjectsRequest {
            cls_id: "things".into(),
            cursor: Some(garbage.to_vec().into()),
            ..Default::default()
        };
        refusals.note(&format!("{what}, objects"), data.list_objects(list).await);
        let list = ListValuesRequest {
            cls_id: "things".into(),
            object_id_str: Some("a".into()),
            cursor: Some(garbage.to_vec().into()),
            ..Default::default()
        };
        refusals.note(&format!("{what}, values"), data.list_values(list).await);
        let watch = SubscribeRequest {
            cls_id: "things".into(),
            from: Some(From::Cursors(Cursors { cursors: vec![garbage.to_vec().into()] })),
            ..Default::default()
        };
        refusals.note(&format!("{what}, watch"), streams.subscribe(watch).await);
    }
    let watch =
        SubscribeRequest { cls_id: "things".into(), from: Some(From::Offset(1)), ..Default::default() };
    refusals.note("one offset for two partitions", streams.subscribe(watch).await);
    let headers = [
        ("odgm-request-id", "two words"),
        ("odgm-depth", "deep"),
        ("odgm-cause", "because"),
        ("odgm-consistency", "perhaps"),
    ];
    for (name, value) in headers {
        let mut request = Request::new(write("a", "k"));
        request.metadata_mut().insert(name, value.parse()?);
        let mut read = Request::new(entry("a", "k"));
        read.metadata_mut().insert(name, value.parse()?);
        match name {
            "odgm-consistency" => refusals.note(name, data.get_value(read).await),
            _ => refusals.note(name, data.set_value(request).await),
        }
    }
    insta::assert_snapshot!(refusals.0, @r#"
    cursor of 0 bytes, objects -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 0 bytes, values -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 0 bytes, watch -> InvalidArgument: invalid cursor: expected a cursor as received in a SubscribeResponse
    cursor of 1 bytes, objects -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 1 bytes, values -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 1 bytes, watch -> InvalidArgument: invalid cursor: expected a cursor as received in a SubscribeResponse
    cursor of 23 bytes, objects -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 23 bytes, values -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 23 bytes, watch -> InvalidArgument: invalid cursor: expected a cursor as received in a SubscribeResponse
    cursor of 4096 bytes, objects -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 4096 bytes, values -> InvalidArgument: invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    cursor of 4096 bytes, watch -> InvalidArgument: invalid cursor: expected a cursor as received in a SubscribeResponse
    one offset for two partitions -> InvalidArgument: an offset is a place in one partition, and 2 are asked for: expected a single partition, or earliest, latest, time_ms, cursors or named_cursor
    odgm-request-id -> InvalidArgument: odgm-request-id "two words": expected 1 to 256 printable ASCII characters without spaces
    odgm-depth -> InvalidArgument: odgm-depth "deep": expected a decimal number
    odgm-cause -> InvalidArgument: odgm-cause "because": expected group/origin/offset, three decimal numbers
    odgm-consistency -> InvalidArgument: odgm-consistency "perhaps": expected linearizable, lease or local
    "#);
    Ok(())
}

#[tokio::test]
async fn oversized_requests_are_refused_and_the_connection_goes_on() -> Story {
    let home = Home::new()?.collection("things", 1).with("ODGM_MAX_REQUEST_BYTES", "64KiB");
    let home = home.with("ODGM_MAX_ENTRIES_PER_REQUEST", "100");
    let node = home.start().await?;
    let Connection { mut data, .. } = node.connection();
    let mut refusals = Refusals::default();

    let large = SetKeyRequest { value: Some(text(&"x".repeat(65 << 10))), ..write("a", "k") };
    refusals.note("65 KiB where 64 are allowed", data.set_value(large).await);
    let many = (0..101).map(|number| (format!("k{number}"), text("v"))).collect();
    let many = BatchSetValuesRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        values: many,
        ..Default::default()
    };
    refusals.note("101 entries where 100 are allowed", data.batch_set_values(many).await);
    insta::assert_snapshot!(refusals.0, @r"
    65 KiB where 64 are allowed -> InvalidArgument: the request message is too large: expected at most 65536 bytes (ODGM_MAX_REQUEST_BYTES)
    101 entries where 100 are allowed -> InvalidArgument: 101 entries in one request: expected at most 100
    ");
    data.set_value(SetKeyRequest { value: Some(text(&"x".repeat(60 << 10))), ..write("a", "k") }).await?;
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_and_the_node_goes_on() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let mut raw = Grpc::new(node.channel());
    let bodies: [&[u8]; 4] = [
        b"this is not protobuf",
        // A length that goes far beyond the end.
        b"\x0a\xff\xff\xff\xff\x0f",
        // A string that is not UTF-8.
        b"\x0a\x02\xff\xfe",
        // A group that never ends.
        b"\x0b\x0b\x0b\x0b",
    ];
    for body in bodies {
        raw.ready().await?;
        let path = PathAndQuery::from_static("/oprc.DataService/SetValue");
        let answer: Result<tonic::Response<Vec<u8>>, _> =
            raw.unary(Request::new(body.to_vec()), path, raw_codec::Raw).await;
        let refused = answer.expect_err("this is not a request");
        assert_eq!(refused.code(), Code::InvalidArgument, "{body:?} was answered with {refused}");
        let expected = "the request is not a valid message: ";
        assert!(refused.message().starts_with(expected), "{body:?} was answered with {refused}");
    }
    node.objects("things", 0).set_value("a", "k", "still here").await?;
    Ok(())
}

#[tokio::test]
async fn a_write_that_cannot_be_read_was_not_applied_and_a_read_says_nothing_of_it() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let mut raw = Grpc::new(node.channel());
    let writes = [
        "/oprc.DataService/Set",
        "/oprc.DataService/SetValue",
        "/oprc.DataService/BatchSetValues",
        "/oprc.DataService/Merge",
        "/oprc.DataService/Delete",
        "/oprc.DataService/DeleteValue",
        "/odgm.v1.Writes/Write",
        "/odgm.v1.Streams/MoveCursor",
        "/odgm.v1.Streams/DropCursor",
        "/odgm.v1.Admin/CreateCollection",
        "/odgm.v1.Admin/DeleteCollection",
    ];
    let reads = [
        "/oprc.DataService/Get",
        "/oprc.DataService/ListObjects",
        "/odgm.v1.Streams/GetAt",
        "/odgm.v1.Admin/Verify",
    ];
    let outcomes = writes.map(|path| (path, Some("not-applied"))).into_iter();
    for (path, outcome) in outcomes.chain(reads.map(|path| (path, None))) {
        raw.ready().await?;
        let body = Request::new(b"this is not protobuf".to_vec());
        let answer: Result<tonic::Response<Vec<u8>>, _> =
            raw.unary(body, PathAndQuery::from_static(path), raw_codec::Raw).await;
        let refused = answer.expect_err("this is not a request");
        assert_eq!(refused.code(), Code::InvalidArgument, "{path} answered {refused}");
        let told = refused.metadata().get("odgm-outcome").and_then(|outcome| outcome.to_str().ok());
        assert_eq!(told, outcome, "{path} answered {refused}");
    }
    Ok(())
}

/// Sends and receives bytes as they are.
mod raw_codec {
    use bytes::{Buf as _, BufMut as _};
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    pub(super) struct Raw;

    impl Codec for Raw {
        type Encode = Vec<u8>;
        type Decode = Vec<u8>;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            Self
        }

        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for Raw {
        type Item = Vec<u8>;
        type Error = Status;

        fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put_slice(&item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Vec<u8>;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
            Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
        }
    }
}
