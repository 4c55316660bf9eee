//! The options of a Create request.

use std::{fs, path::Path};

use containerd_shim::protos::{
    protobuf::{Message, well_known_types::any::Any},
    shim::oci,
};
use serde::{Deserialize, Serialize};

use super::fields::{
    Fields, Value, malformed, message_name, other, unknown_type, warn_unknown_field,
};
use crate::error::{Error, Result};

pub(super) const RUNTIME_OPTIONS: &str = "runtimeoptions.v1.Options";
/// The name before containerd 1.7 moved the package.
const CRI_RUNTIME_OPTIONS: &str = "cri.runtimeoptions.v1.Options";
pub(super) const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
pub(super) const LINUX_CREATE: &str = "containerd.linux.runc.CreateOptions";

/// The file name, the same as in containerd's own shim.
const FILE: &str = "options.json";

/// runc's options, as containerd documents them for `io.containerd.runc.v2`.
/// The TOML and JSON keys are those of containerd's configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct CreateOptions {
    /// Don't call pivot_root for the container's root.
    pub(crate) no_pivot_root: bool,
    /// Don't create a new session keyring.
    pub(crate) no_new_keyring: bool,
    /// The cgroup that the shim itself joins.
    pub(crate) shim_cgroup: String,
    /// Owner of the stdio pipes.
    pub(crate) io_uid: u32,
    /// Group of the stdio pipes.
    pub(crate) io_gid: u32,
    /// The OCI runtime: a name in PATH or a path. Empty: the configured one.
    pub(crate) binary_name: String,
    /// The OCI runtime's state root. Empty: `/run/containerd/runc`.
    pub(crate) root: String,
    /// Let systemd manage the container's cgroup.
    pub(crate) systemd_cgroup: bool,
    /// Restore from this directory instead of creating.
    pub(crate) criu_image_path: String,
    /// CRIU's work directory for a restore, which also gets its log.
    pub(crate) criu_work_path: String,
    /// Ignored, as by containerd 1.7. The key is accepted because containerd 1.7's
    /// default configuration has it.
    #[serde(skip_serializing)]
    pub(crate) criu_path: String,
}

impl CreateOptions {
    /// Reads the options of a Create request. Without options the defaults apply.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the unknown or contradictory option.
    pub(crate) fn from_request(options: Option<&Any>) -> Result<Self> {
        let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match message_name(any) {
            RUNC_OPTIONS => Self::from_runc(&any.value),
            LINUX_CREATE => Self::from_linux(&any.value),
            RUNTIME_OPTIONS | CRI_RUNTIME_OPTIONS => Self::from_toml_options(&any.value),
            _ => Err(unknown_type(
                &any.type_url,
                &[RUNC_OPTIONS, RUNTIME_OPTIONS, LINUX_CREATE],
            )),
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Self> {
        let o = oci::Options::parse_from_bytes(bytes).map_err(malformed(RUNC_OPTIONS))?;
        for (number, _) in o.special_fields.unknown_fields().iter() {
            warn_unknown_field(RUNC_OPTIONS, number);
        }
        Ok(Self {
            no_pivot_root: o.no_pivot_root,
            no_new_keyring: o.no_new_keyring,
            shim_cgroup: o.shim_cgroup,
            io_uid: o.io_uid,
            io_gid: o.io_gid,
            binary_name: o.binary_name,
            root: o.root,
            systemd_cgroup: o.systemd_cgroup,
            criu_image_path: o.criu_image_path,
            criu_work_path: o.criu_work_path,
            ..Self::default()
        })
    }

    /// The first shim API's create options, as containerd 1.7's client sends
    /// them to runtimes that it doesn't know (`runtime/linux/runctypes`).
    fn from_linux(bytes: &[u8]) -> Result<Self> {
        let mut o = Self::default();
        for field in Fields::of(LINUX_CREATE, bytes) {
            match field? {
                (1, Value::Number(n)) => o.no_pivot_root = n != 0,
                (8, Value::Number(n)) => o.no_new_keyring = n != 0,
                (9, Value::Text(s)) => o.shim_cgroup = s,
                (10, Value::Number(n)) => o.io_uid = n as u32,
                (11, Value::Number(n)) => o.io_gid = n as u32,
                (12, Value::Text(s)) => o.criu_work_path = s,
                (13, Value::Text(s)) => o.criu_image_path = s,
                (number, _) => other(LINUX_CREATE, number, &[1, 8, 9, 10, 11, 12, 13])?,
            }
        }
        Ok(o)
    }

    fn from_toml_options(bytes: &[u8]) -> Result<Self> {
        let (mut type_url, mut path, mut body) = (String::new(), String::new(), String::new());
        for field in Fields::of(RUNTIME_OPTIONS, bytes) {
            match field? {
                (1, Value::Text(s)) => type_url = s,
                (2, Value::Text(s)) => path = s,
                (3, Value::Text(s)) => body = s,
                (number, _) => other(RUNTIME_OPTIONS, number, &[1, 2, 3])?,
            }
        }
        if !type_url.is_empty() && type_url.rsplit('/').next() != Some(RUNC_OPTIONS) {
            return Err(Error::InvalidArgument(format!(
                "runtime option TypeUrl is {type_url:?}: leave it empty or set it to {RUNC_OPTIONS:?}"
            )));
        }
        match (path.as_str(), body.as_str()) {
            ("", body) => {
                Self::from_toml("the runtime options in containerd's configuration", body)
            }
            (path, "") => {
                let text = fs::read_to_string(path).map_err(|e| {
                    Error::InvalidArgument(format!("runtime option ConfigPath {path}: {e}"))
                })?;
                Self::from_toml(path, &text)
            }
            (path, _) => Err(Error::InvalidArgument(format!(
                "runtime options ConfigPath ({path}) and ConfigBody are both set: they contradict each other, keep one"
            ))),
        }
    }

    pub(super) fn from_toml(source: &str, text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::InvalidArgument(format!("{source}: {e}")))
    }

    /// Whether the options came in the message that clients send to runtimes named
    /// `io.containerd.runc.v2`.
    pub(crate) fn is_runc_message(options: Option<&Any>) -> bool {
        options.is_some_and(|any| message_name(any) == RUNC_OPTIONS)
    }

    /// Reads the file that [`CreateOptions::save`] wrote. Without that file, as after
    /// an interrupted Create, the defaults apply.
    pub(crate) fn load(bundle: &Path) -> Self {
        fs::read(bundle.join(FILE))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    /// Saves the options in the bundle, for containerd's `delete` call after the shim
    /// was killed.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn save(&self, bundle: &Path) -> std::io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)
    }
}
