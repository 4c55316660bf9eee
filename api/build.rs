//! Compiles the .proto files without protoc: protox parses them, and tonic generates
//! the code. The descriptors go into a file that gRPC reflection serves.

use std::path::PathBuf;
use std::{env, error, fs};

use prost::Message;

const FILES: [&str; 3] = [
    "proto/cedana/daemon/v1/checkpoint.proto",
    "proto/cedana/daemon/v1/daemon.proto",
    "proto/cedana/daemon/v1/job.proto",
];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let file = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(file, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
