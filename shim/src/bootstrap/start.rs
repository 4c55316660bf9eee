//! `start`: returns the address of the shim for the container whose bundle is the
//! working directory.
//!
//! For the second container of a pod this is the shim of the first. The shim process
//! itself binds the socket, so if two containers of a pod start at once, the kernel
//! decides which shim serves both.
//!
//! The protocol between containerd and the shim has three generations. containerd 1.7
//! writes options to stdin, reads JSON and refuses a task API above 2; 2.0 to 2.2 do
//! the same with task API 3; 2.3 and later send bootstrap parameters and read a
//! bootstrap result. With task API 3, containerd starts one shim per pod instead of
//! one per container.

use std::{env, os::unix::net::UnixStream, path::Path};

use containerd_shim::{
    Flags, StartOpts,
    asynchronous::{spawn, util::write_str_to_file},
    bootstrap::{BootstrapParams, BootstrapResult},
    protos::{
        protobuf::{Message, well_known_types::any::Any},
        shim::oci,
    },
};

use super::{STOCK_NAME_VARIABLE, engine};
use cedana_contract::variables;

use crate::{
    container::is_stock_name,
    error::{Error, Result},
    options::CreateOptions,
    spec::Spec,
};

/// Starts or finds a shim; returns the answer for containerd.
///
/// # Errors
/// A bundle without a spec, unknown options, or a shim that doesn't listen.
pub(super) async fn start(flags: &Flags, input: &[u8]) -> Result<Vec<u8>> {
    let (mut options, generation) = parameters(flags, input)?;
    read_shim_cgroup(&mut options)?;
    let spec = Spec::read(Path::new("."))?;
    let group = spec.group().unwrap_or(&options.id).to_owned();
    let address = options.socket_address(&group);
    if !is_listening(&address) {
        // `spawn` resolves links in the path of the executable, so the name by which
        // containerd called `start` is passed on.
        let name = env::args_os().next().unwrap_or_default();
        let mut vars = Vec::new();
        if is_stock_name(Path::new(&name)) {
            vars.push((STOCK_NAME_VARIABLE, "1"));
        }
        if generation.is_containerd_2() {
            vars.push((variables::CONTAINERD_2, "1"));
        }
        spawn(options, &group, vars).await.map_err(shim_error)?;
        // The shim has printed its error on stderr, which containerd reads, too.
        if !is_listening(&address) {
            return Err(Error::Runtime(format!(
                "the shim for {group} does not listen at {address}"
            )));
        }
    }
    // containerd 1.7 reads this file when it reconnects.
    write_str_to_file("address", &address)
        .await
        .map_err(shim_error)?;
    answer(&address, &generation)
}

fn shim_error(e: containerd_shim::Error) -> Error {
    Error::Runtime(format!("start a shim: {e}"))
}

/// The format of the answer.
#[derive(Debug, PartialEq, Eq)]
enum Generation {
    /// JSON, with this version of the task API.
    Json(i32),
    /// A bootstrap result.
    Bootstrap,
}

impl Generation {
    /// Whether containerd is 2.0 or later.
    fn is_containerd_2(&self) -> bool {
        match self {
            Self::Json(version) => *version >= engine::TASK_API_V3,
            Self::Bootstrap => true,
        }
    }
}

/// Reads the bootstrap parameters, or the flags and variables that older containerds
/// send.
fn parameters(flags: &Flags, input: &[u8]) -> Result<(StartOpts, Generation)> {
    if let Ok(params) = BootstrapParams::parse_from_bytes(input)
        && params.instance_id == flags.id
        && params.namespace == flags.namespace
        && !flags.id.is_empty()
    {
        return Ok((params.into(), Generation::Bootstrap));
    }
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let mut options = StartOpts {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        address: flags.address.clone(),
        publish_binary: flags.publish_binary.clone(),
        ttrpc_address: variable("TTRPC_ADDRESS"),
        debug: flags.debug,
        ..StartOpts::default()
    };
    if options.address.is_empty() {
        options.address = variable("GRPC_ADDRESS");
    }
    if options.ttrpc_address.is_empty() {
        return Err(Error::InvalidArgument(
            "containerd's address is missing: TTRPC_ADDRESS is not set".into(),
        ));
    }
    if !input.is_empty() {
        let any = Any::parse_from_bytes(input)
            .map_err(|e| Error::InvalidArgument(format!("runtime options on stdin: {e}")))?;
        options.extensions.push(any);
    }
    let version = engine::task_api(Path::new(&flags.publish_binary));
    Ok((options, Generation::Json(version)))
}

/// Converts the ShimCgroup option of any known message into the message that `spawn`
/// reads.
fn read_shim_cgroup(options: &mut StartOpts) -> Result<()> {
    for any in std::mem::take(&mut options.extensions) {
        // Extensions of other kinds are ignored.
        let Ok(read) = CreateOptions::from_request(Some(&any)) else {
            continue;
        };
        let runc = oci::Options {
            shim_cgroup: read.shim_cgroup,
            ..oci::Options::default()
        };
        let packed = Any::pack(&runc)
            .map_err(|e| Error::InvalidArgument(format!("runtime options: {e}")))?;
        options.extensions.push(packed);
    }
    Ok(())
}

/// Whether a shim listens at `address`.
pub(super) fn is_listening(address: &str) -> bool {
    UnixStream::connect(address.trim_start_matches("unix://")).is_ok()
}

fn answer(address: &str, generation: &Generation) -> Result<Vec<u8>> {
    let answer = match generation {
        Generation::Json(version) => serde_json::to_vec(&serde_json::json!({
            "version": version,
            "address": address,
            "protocol": "ttrpc",
        }))
        .map_err(|e| e.to_string()),
        Generation::Bootstrap => BootstrapResult {
            version: engine::TASK_API_V3,
            address: address.to_owned(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        }
        .write_to_bytes()
        .map_err(|e| e.to_string()),
    };
    answer.map_err(|e| Error::Runtime(format!("encode the answer to start: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "c1".into(),
            namespace: "default".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        }
    }

    #[test]
    fn bootstrap_parameters_are_recognised_by_the_container_id() {
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "default".into(),
            containerd_ttrpc_address: "/run/x.ttrpc".into(),
            ..BootstrapParams::default()
        };
        let (options, generation) =
            parameters(&flags(), &params.write_to_bytes().unwrap()).unwrap();
        assert_eq!(generation, Generation::Bootstrap);
        assert_eq!(options.ttrpc_address, "/run/x.ttrpc");
    }

    #[test]
    fn a_shim_cgroup_is_found_in_toml_too() {
        let body = "ShimCgroup = \"/shims\"\n";
        let value = [&[3 << 3 | 2, body.len() as u8], body.as_bytes()].concat();
        let mut options = StartOpts {
            extensions: vec![Any {
                type_url: "runtimeoptions.v1.Options".into(),
                value,
                ..Any::default()
            }],
            ..StartOpts::default()
        };
        read_shim_cgroup(&mut options).unwrap();
        let read = options.extension::<oci::Options>().unwrap().unwrap();
        assert_eq!(read.shim_cgroup, "/shims");
    }

    #[test]
    fn the_json_answer_names_its_version() {
        let text = answer("unix:///x", &Generation::Json(2)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["version"], 2);
        assert_eq!(json["address"], "unix:///x");
        assert_eq!(json["protocol"], "ttrpc");
    }
}
