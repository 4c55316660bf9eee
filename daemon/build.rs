//! Compiles the part of containerd's API that the daemon calls, as cedana-api does with
//! the daemon's own: protox parses the .proto files, and tonic generates clients.

use std::error::Error;

const SERVICES: [&str; 10] = [
    "proto/containerd/containers.proto",
    "proto/containerd/content.proto",
    "proto/containerd/diff.proto",
    "proto/containerd/images.proto",
    "proto/containerd/leases.proto",
    "proto/containerd/namespaces.proto",
    "proto/containerd/runc.proto",
    "proto/containerd/snapshots.proto",
    "proto/containerd/task.proto",
    "proto/containerd/tasks.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(SERVICES, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .include_file("containerd.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
