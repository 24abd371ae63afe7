//! The wire schema of ODGM and what is generated from it.
//!
//! `proto/oprc/*.proto` is the contract with existing clients of every generation, [`oprc`]; `proto/odgm/v1/odgm.proto`
//! is ODGM's own API, [`odgm::v1`]. Maps are sorted and `bytes` fields are [`bytes::Bytes`].

mod json;
pub mod metadata;
mod numbers;

pub use numbers::canonical;

/// Object data, functions and collections, as existing clients speak them.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod oprc {
    include!(concat!(env!("OUT_DIR"), "/oprc.rs"));
}

/// What is ODGM's own.
pub mod odgm {
    /// Event streams, pipelined writes and administration.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/odgm.v1.rs"));
    }
}

/// The encoded `FileDescriptorSet` of both packages, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
