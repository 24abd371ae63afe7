//! Compiles the schema with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;
use tonic_prost_build::Builder;

const FILES: [&str; 3] = ["oprc/data.proto", "oprc/invoke.proto", "odgm/v1/odgm.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;

    let builder = tonic_prost_build::configure()
        .bytes(".")
        // Sorted maps: the same message has the same bytes and the same JSON every time.
        .btree_map(".")
        .emit_rerun_if_changed(false);
    json(builder).compile_fds(descriptors.clone())?;

    // Reflection needs the types, not the comments.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let path = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    Ok(())
}

/// The JSON mapping of the messages that travel as JSON; `src/json.rs` says what it is and holds the rest of it.
fn json(mut builder: Builder) -> Builder {
    const DERIVE: &str = "#[derive(serde::Serialize, serde::Deserialize)]";

    // Every field is required, but for optional ones.
    for message in [
        "ValData",
        "FuncTrigger",
        "DataTrigger",
        "ShardAssignment",
        "InvocationRequest",
        "InvocationResponse",
    ] {
        let path = format!("oprc.{message}");
        builder = builder.message_attribute(path, format!("{DERIVE} #[serde(deny_unknown_fields)]"));
    }
    // What is missing is empty, 0 or false.
    for message in ["CreateCollectionRequest", "InvocationRoute", "FuncInvokeRoute", "TriggerPayload"] {
        let path = format!("oprc.{message}");
        builder = builder.message_attribute(path, format!("{DERIVE} #[serde(default, deny_unknown_fields)]"));
    }
    // Those with a numeric and a string column, which are one field in JSON.
    for message in
        ["ObjData", "ObjMeta", "ObjectEvent", "TriggerTarget", "EventInfo", "ObjectInvocationRequest"]
    {
        let both = format!("#[serde(from = \"crate::json::{message}\", into = \"crate::json::{message}\")]");
        builder = builder.message_attribute(format!("oprc.{message}"), format!("{DERIVE} {both}"));
    }
    for field in ["ValData.data", "InvocationRequest.payload"] {
        builder =
            builder.field_attribute(format!("oprc.{field}"), "#[serde(with = \"crate::json::base64\")]");
    }
    for field in ["InvocationResponse.payload", "TriggerPayload.original_payload"] {
        let attribute = "#[serde(default, with = \"crate::json::optional_base64\")]";
        builder = builder.field_attribute(format!("oprc.{field}"), attribute);
    }
    builder
}
