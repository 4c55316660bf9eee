//! The daemon's gRPC API, package `cedana.daemon.v1`, and the places where the daemon
//! and its clients find each other.
//!
//! ```text
//! proto/*.proto ── protox ──► descriptors ── tonic ──► v1 (messages, clients, servers)
//!                                  └────────────────► DESCRIPTORS, for reflection
//! ```
//!
//! The .proto files are the reference of the API; every field is documented there.

/// Messages, clients and servers of `cedana.daemon.v1`.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated code; the .proto files document it"
)]
pub mod v1 {
    tonic::include_proto!("cedana.daemon.v1");
}

pub mod places;
pub mod time;

/// The encoded descriptors of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
