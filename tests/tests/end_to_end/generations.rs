//! Clients of every generation: by numbers, by strings, by both.

use automerge::transaction::Transactable as _;
use automerge::{AutoCommit, ROOT, ReadDoc as _};
use bytes::Bytes;
use odgm_proto::oprc::{
    ObjData, SetKeyRequest, SetObjectRequest, SingleKeyRequest, SingleObjectRequest, ValData, ValType,
};
use odgm_tests::harness::{Home, text};
use tonic::Code;

use crate::Story;

#[tokio::test]
async fn a_numeric_and_a_string_client_see_the_same_object() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let mut data = node.connection().data;

    let object = ObjData { entries: [(7, text("seven"))].into(), ..ObjData::default() };
    data.set(SetObjectRequest {
        cls_id: "things".into(),
        object_id: 42,
        object: Some(object),
        ..Default::default()
    })
    .await?;
    let value = Some(text("eight"));
    data.set_value(SetKeyRequest {
        cls_id: "things".into(),
        object_id: 42,
        key: 8,
        value,
        ..Default::default()
    })
    .await?;

    let by_string = node.objects("things", 0);
    assert_eq!(by_string.value("42", "7").await?.as_deref(), Some("seven"));
    by_string.set_value("42", "name", "by string").await?;

    let request = SingleObjectRequest { cls_id: "things".into(), object_id: 42, ..Default::default() };
    let object = data.get(request).await?.into_inner().obj.expect("the object");
    let numeric: Vec<_> = object.entries.iter().map(|(key, value)| (*key, value.data.clone())).collect();
    assert_eq!(numeric, [(7, Bytes::from("seven")), (8, Bytes::from("eight"))]);
    assert_eq!(object.entries_str.keys().collect::<Vec<_>>(), ["7", "8", "name"]);
    let metadata = object.metadata.expect("metadata");
    assert_eq!((metadata.object_id, metadata.object_id_str.as_deref()), (42, Some("42")));
    Ok(())
}

#[tokio::test]
async fn the_string_wins_where_both_are_given_and_leading_zeros_are_another_name() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let mut data = node.connection().data;
    let both = SetKeyRequest {
        cls_id: "things".into(),
        object_id: 1,
        object_id_str: Some("007".into()),
        key: 1,
        key_str: Some("k".into()),
        value: Some(text("v")),
        ..SetKeyRequest::default()
    };
    data.set_value(both).await?;
    let things = node.objects("things", 0);
    assert_eq!(things.value("007", "k").await?.as_deref(), Some("v"));
    assert_eq!(things.get("7").await.expect_err("another object").code(), Code::NotFound);
    let request = SingleKeyRequest {
        cls_id: "things".into(),
        object_id: 1,
        object_id_str: Some("007".into()),
        key: 1,
        key_str: Some("k".into()),
        ..SingleKeyRequest::default()
    };
    let response = data.get_value(request).await?.into_inner();
    assert_eq!((response.key.as_deref(), response.object_version), (Some("k"), Some(1)));
    Ok(())
}

#[tokio::test]
async fn documents_that_were_edited_apart_are_merged() -> Story {
    let home = Home::new()?.collection("documents", 1);
    let node = home.start().await?;
    let documents = node.objects("documents", 0);
    let mut data = node.connection().data;

    let mut first = AutoCommit::new();
    first.put(ROOT, "title", "Notes")?;
    let mut second = first.fork();
    first.put(ROOT, "left", 1)?;
    second.put(ROOT, "right", 2)?;

    let mut merge = async |document: Vec<u8>| {
        let value = ValData { data: document.into(), r#type: ValType::CrdtMap.into() };
        let object = ObjData { entries_str: [("doc".to_owned(), value)].into(), ..ObjData::default() };
        let request = SetObjectRequest { object: Some(object), ..documents.whole("notes", &[]) };
        data.merge(request).await.map(|response| response.into_inner().obj.unwrap_or_default())
    };
    merge(first.save()).await?;
    let merged = merge(second.save()).await?;
    let merged = AutoCommit::load(&merged.entries_str["doc"].data)?;
    assert_eq!(merged.keys(ROOT).collect::<Vec<_>>(), ["left", "right", "title"]);

    let refused = merge(b"not a document".to_vec()).await.expect_err("garbage");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(documents.get("notes").await?.len(), 1, "a refused merge has changed the object");
    Ok(())
}
