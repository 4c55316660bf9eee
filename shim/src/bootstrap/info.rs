//! `-info`: returns the runtime's name, its version, and the output of the wrapped
//! OCI runtime's `features` command. containerd offers Kubernetes recursive read-only
//! mounts and user namespaces only for runtimes that report them here.

use std::{path::Path, process::Command};

use containerd_shim::protos::{
    protobuf::{Message, MessageField, well_known_types::any::Any},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};

use super::{RUNTIME_NAME, default_runtime, warn_on_stderr};
use crate::{
    error::{Context, Error, Result},
    options::CreateOptions,
    runtime::Runtime,
};

/// containerd's type name of the OCI features document (core/runtime/typeurl.go).
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Describes the runtime for `input`, the runtime options or nothing.
///
/// # Errors
/// Unknown options, or an OCI runtime that can't be run.
pub(super) fn describe(input: &[u8]) -> Result<Vec<u8>> {
    let options = match input {
        [] => None,
        input => Some(
            Any::parse_from_bytes(input)
                .map_err(|e| Error::InvalidArgument(format!("runtime options on stdin: {e}")))?,
        ),
    };
    let read = CreateOptions::from_request(options.as_ref())?;
    let default = default_runtime(warn_on_stderr);
    let runtime = Runtime::new(&read, &default, "", Path::new(""));
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        }),
        options: options.into(),
        features: features(runtime.binary())?.into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes()
        .map_err(|e| Error::Runtime(format!("encode the runtime's description: {e}")))
}

/// The features document (OCI runtime-spec, features.md), as the OCI runtime printed
/// it; None if the runtime lacks the command.
fn features(binary: &Path) -> Result<Option<Any>> {
    let output = Command::new(binary)
        .arg("features")
        .output()
        .context(|| format!("run {binary:?} features"))?;
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout).is_ok();
    Ok((output.status.success() && is_json).then(|| Any {
        type_url: FEATURES.into(),
        value: output.stdout,
        ..Any::default()
    }))
}
