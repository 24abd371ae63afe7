//! Compiles the schema with protox, so that no protoc is needed on the machine.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;

const FILES: [&str; 3] = ["oprc/data.proto", "oprc/invoke.proto", "odgm/v1/odgm.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;

    let builder = tonic_prost_build::configure()
        .bytes(".")
        // Sorted maps: the same message has the same bytes and the same JSON every time.
        .btree_map(".")
        .emit_rerun_if_changed(false);
    builder.compile_fds(descriptors.clone())?;

    // Reflection needs the types, not the comments.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let path = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    Ok(())
}
