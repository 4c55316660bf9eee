//! The options that clients attach to Create and Checkpoint.
//!
//! Which message arrives depends on the client and on how it reads the
//! runtime's *name*:
//!
//! | sender | for `io.containerd.cedana.v2` it sends |
//! |---|---|
//! | `ctr` 1.7, 2.x: run | nothing, or `runtimeoptions.v1.Options` with `--runtime-config-path` |
//! | `ctr` 1.7: task checkpoint | nothing (`--exit` and the paths are dropped unless the name is exactly `io.containerd.runc.v2`) |
//! | `ctr` 2.x: task checkpoint | `containerd.runc.v1.CheckpointOptions` |
//! | containerd's Go client 1.7 (`WithCheckpointExit`, Docker 26) | `containerd.linux.runc.CheckpointOptions`, the first shim API's, unless the name begins with `io.containerd.runc` |
//! | containerd's Go client 2.x (Docker 28) | `containerd.runc.v1.*` |
//! | CRI | `runtimeoptions.v1.Options` with a TOML body or path; for a checkpoint nothing |
//!
//! All of them are read here into [`CreateOptions`] and [`CheckpointOptions`].
//! Malformed and contradictory options are refused, and the error names them. So is
//! an unknown key in a file, which may be a typing error. An unknown field of a
//! message comes from a newer client. The shim ignores this field with a warning in
//! its log; containerd's own shim ignores it, too.

use std::{fs, path::Path};

use containerd_shim::protos::{
    protobuf::{
        CodedInputStream, Message, UnknownValueRef, rt::WireType, well_known_types::any::Any,
    },
    shim::oci,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// The options of a checkpoint. If the client sends none, the configuration applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointOptions {
    /// Stop the container after its checkpoint. None if the client sends no options.
    pub(crate) exit: Option<bool>,
    /// Keep established TCP connections.
    pub(crate) open_tcp: bool,
    /// Allow unix sockets with a peer outside.
    pub(crate) external_unix_sockets: bool,
    /// Allow a terminal whose other end is outside.
    pub(crate) terminal: bool,
    /// Keep file locks.
    pub(crate) file_locks: bool,
    /// Namespaces whose contents are not saved.
    pub(crate) empty_namespaces: Vec<String>,
    /// CRIU's cgroup mode: soft, full, strict or ignore.
    pub(crate) cgroups_mode: String,
    /// Write the checkpoint here instead of to the request's path.
    pub(crate) image_path: String,
    /// CRIU's work directory, which also gets its log.
    pub(crate) work_path: String,
    /// An earlier checkpoint, relative to this one: only memory that has changed
    /// since is written. containerd 2.4 introduced the field.
    pub(crate) parent_path: String,
}

const RUNTIME_OPTIONS: &str = "runtimeoptions.v1.Options";
/// The name before containerd 1.7 moved the package.
const CRI_RUNTIME_OPTIONS: &str = "cri.runtimeoptions.v1.Options";
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
const RUNC_CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";
/// The number of [`CheckpointOptions::parent_path`], which the shim crates don't
/// know yet.
const PARENT_PATH: u32 = 10;
const LINUX_CREATE: &str = "containerd.linux.runc.CreateOptions";
const LINUX_CHECKPOINT: &str = "containerd.linux.runc.CheckpointOptions";

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

    fn from_toml(source: &str, text: &str) -> Result<Self> {
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

/// The file name, the same as in containerd's own shim.
const FILE: &str = "options.json";

impl CheckpointOptions {
    /// Reads the options of a Checkpoint request.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the unknown option.
    pub(crate) fn from_request(options: Option<&Any>) -> Result<Self> {
        let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        match message_name(any) {
            RUNC_CHECKPOINT => Self::from_runc(&any.value),
            LINUX_CHECKPOINT => Self::from_linux(&any.value),
            _ => Err(unknown_type(
                &any.type_url,
                &[RUNC_CHECKPOINT, LINUX_CHECKPOINT],
            )),
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Self> {
        let o =
            oci::CheckpointOptions::parse_from_bytes(bytes).map_err(malformed(RUNC_CHECKPOINT))?;
        let mut parent_path = String::new();
        for (number, value) in o.special_fields.unknown_fields().iter() {
            match (number, value) {
                (PARENT_PATH, UnknownValueRef::LengthDelimited(path)) => {
                    parent_path = str::from_utf8(path)
                        .map_err(malformed(RUNC_CHECKPOINT))?
                        .to_owned();
                }
                _ => warn_unknown_field(RUNC_CHECKPOINT, number),
            }
        }
        Ok(Self {
            exit: Some(o.exit),
            open_tcp: o.open_tcp,
            external_unix_sockets: o.external_unix_sockets,
            terminal: o.terminal,
            file_locks: o.file_locks,
            empty_namespaces: o.empty_namespaces,
            cgroups_mode: o.cgroups_mode,
            image_path: o.image_path,
            work_path: o.work_path,
            parent_path,
        })
    }

    /// Reads the first shim API's message, like [`CreateOptions::from_linux`]. The
    /// two paths have swapped numbers since.
    fn from_linux(bytes: &[u8]) -> Result<Self> {
        let mut o = Self::default();
        for field in Fields::of(LINUX_CHECKPOINT, bytes) {
            match field? {
                (1, Value::Number(n)) => o.exit = Some(n != 0),
                (2, Value::Number(n)) => o.open_tcp = n != 0,
                (3, Value::Number(n)) => o.external_unix_sockets = n != 0,
                (4, Value::Number(n)) => o.terminal = n != 0,
                (5, Value::Number(n)) => o.file_locks = n != 0,
                (6, Value::Text(s)) => o.empty_namespaces.push(s),
                (7, Value::Text(s)) => o.cgroups_mode = s,
                (8, Value::Text(s)) => o.work_path = s,
                (9, Value::Text(s)) => o.image_path = s,
                (number, _) => other(LINUX_CHECKPOINT, number, &[1, 2, 3, 4, 5, 6, 7, 8, 9])?,
            }
        }
        Ok(o)
    }
}

fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

fn unknown_type(got: &str, known: &[&str]) -> Error {
    Error::InvalidArgument(format!(
        "options of type {got:?} are unknown; send {}",
        known.join(" or ")
    ))
}

fn warn_unknown_field(message: &str, number: u32) {
    log::warn!("option number {number} of {message} is unknown and has no effect");
}

/// Handles a field that was not read: a known field has the wrong type, an unknown
/// one is ignored.
fn other(message: &'static str, number: u32, known: &[u32]) -> Result<()> {
    if known.contains(&number) {
        return Err(malformed(message)(format!(
            "field {number} has the wrong type"
        )));
    }
    warn_unknown_field(message, number);
    Ok(())
}

fn malformed<E: std::fmt::Display>(message: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::InvalidArgument(format!("options {message} are malformed: {e}"))
}

/// The value of a field in a flat protobuf message.
enum Value {
    Number(u64),
    Text(String),
    /// A value of a type that no known field has.
    Other,
}

/// The fields of a message whose definition the shim crates don't carry.
struct Fields<'a> {
    message: &'static str,
    input: CodedInputStream<'a>,
}

impl<'a> Fields<'a> {
    fn of(message: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            message,
            input: CodedInputStream::from_bytes(bytes),
        }
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<(u32, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let malformed = malformed(self.message);
        let tag = match self.input.read_raw_tag_or_eof() {
            Ok(Some(tag)) => tag,
            Ok(None) => return None,
            Err(e) => return Some(Err(malformed(e))),
        };
        let number = tag >> 3;
        let value = match WireType::new(tag & 7) {
            Some(WireType::Varint) => self.input.read_uint64().map(Value::Number),
            Some(WireType::LengthDelimited) => self
                .input
                .read_bytes()
                .map(|bytes| String::from_utf8(bytes).map_or(Value::Other, Value::Text)),
            Some(wire_type) => self.input.skip_field(wire_type).map(|()| Value::Other),
            None => {
                let message = self.message;
                return Some(Err(Error::InvalidArgument(format!(
                    "options {message} are malformed: wire type {}",
                    tag & 7
                ))));
            }
        };
        Some(value.map(|value| (number, value)).map_err(malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: name.into(),
            value,
            ..Any::default()
        }
    }

    /// Encodes text fields of a protobuf message.
    fn texts(fields: &[(u8, &str)]) -> Vec<u8> {
        fields
            .iter()
            .flat_map(|(number, text)| {
                [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat()
            })
            .collect()
    }

    #[test]
    fn a_known_field_of_the_wrong_type_is_malformed() {
        let no_text = [9 << 3 | 2, 1, 0xff].to_vec();
        for value in [no_text, vec![9 << 3, 1]] {
            let sent = any(LINUX_CHECKPOINT, value);
            let refusal = CheckpointOptions::from_request(Some(&sent)).unwrap_err();
            assert!(refusal.to_string().contains("field 9"), "{refusal}");
        }
        // An unknown field may have any type.
        let sent = any(LINUX_CHECKPOINT, vec![14 << 3 | 2, 1, 0xff]);
        assert_eq!(
            CheckpointOptions::from_request(Some(&sent)).unwrap(),
            CheckpointOptions::default()
        );
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(
            CreateOptions::from_request(None).unwrap(),
            CreateOptions::default()
        );
        assert_eq!(
            CheckpointOptions::from_request(Some(&Any::default())).unwrap(),
            CheckpointOptions::default()
        );
    }

    #[test]
    fn runc_options_are_read() {
        let sent = oci::Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            ..Default::default()
        };
        let read =
            CreateOptions::from_request(Some(&any(RUNC_OPTIONS, sent.write_to_bytes().unwrap())))
                .unwrap();
        assert_eq!(read.binary_name, "crun");
        assert!(read.systemd_cgroup);
    }

    #[test]
    fn only_runcs_own_message_tells_the_runtimes_name() {
        assert!(CreateOptions::is_runc_message(Some(&any(
            RUNC_OPTIONS,
            vec![]
        ))));
        for name in [RUNTIME_OPTIONS, LINUX_CREATE, ""] {
            assert!(
                !CreateOptions::is_runc_message(Some(&any(name, vec![]))),
                "{name}"
            );
        }
        assert!(!CreateOptions::is_runc_message(None));
    }

    #[test]
    fn a_toml_body_is_read_and_its_unknown_keys_refused() {
        let body = texts(&[(3, "BinaryName = \"crun\"\nIoUid = 7\n")]);
        let read = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, body))).unwrap();
        assert_eq!((read.binary_name.as_str(), read.io_uid), ("crun", 7));

        let body = texts(&[(3, "BinaryNam = \"crun\"\n")]);
        let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, body))).unwrap_err();
        assert!(refusal.to_string().contains("BinaryNam"), "{refusal}");
    }

    #[test]
    fn path_and_body_contradict_each_other() {
        let both = texts(&[(2, "/etc/x.toml"), (3, "Root = \"/x\"")]);
        let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, both))).unwrap_err();
        assert!(refusal.to_string().contains("contradict"), "{refusal}");
    }

    #[test]
    fn a_missing_config_path_is_named() {
        let path = texts(&[(2, "/nonexistent/x.toml")]);
        let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, path))).unwrap_err();
        assert!(
            refusal.to_string().contains("/nonexistent/x.toml"),
            "{refusal}"
        );
    }

    #[test]
    fn unknown_messages_are_named() {
        let refusal = CreateOptions::from_request(Some(&any("acme.Options", vec![]))).unwrap_err();
        assert!(refusal.to_string().contains("acme.Options"), "{refusal}");
    }

    #[test]
    fn unknown_fields_are_ignored() {
        // A number, invalid text, four and eight bytes; then a known field.
        let mut sent = vec![15 << 3, 1, 14 << 3 | 2, 1, 0xff];
        sent.extend([15 << 3 | 5, 0, 0, 0, 0, 14 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        sent.extend([1 << 3, 1]);
        for message in [RUNC_CHECKPOINT, LINUX_CHECKPOINT] {
            let read = CheckpointOptions::from_request(Some(&any(message, sent.clone()))).unwrap();
            assert_eq!(read.exit, Some(true), "{message}");
        }
        for message in [RUNC_OPTIONS, LINUX_CREATE] {
            let read = CreateOptions::from_request(Some(&any(message, sent.clone()))).unwrap();
            assert!(read.no_pivot_root, "{message}");
        }
    }

    #[test]
    fn a_parent_is_read() {
        let read = |value| CheckpointOptions::from_request(Some(&any(RUNC_CHECKPOINT, value)));
        let sent = texts(&[(10, "../first")]);
        assert_eq!(read(sent).unwrap().parent_path, "../first");
        let garbled = read(vec![10 << 3 | 2, 1, 0xff]).unwrap_err();
        assert!(garbled.to_string().contains("malformed"), "{garbled}");
    }

    #[test]
    fn containerds_default_options_are_read() {
        // `containerd config default`, 1.7.24.
        let text = "BinaryName = \"\"\nCriuImagePath = \"\"\nCriuPath = \"\"\nCriuWorkPath = \"\"\n\
                    IoGid = 0\nIoUid = 0\nNoNewKeyring = false\nNoPivotRoot = false\n\
                    Root = \"\"\nShimCgroup = \"\"\nSystemdCgroup = true\n";
        assert!(CreateOptions::from_toml("x", text).unwrap().systemd_cgroup);
    }

    #[test]
    fn the_first_shim_api_swaps_the_paths() {
        let mut sent = vec![1 << 3, 1];
        sent.extend(texts(&[(8, "/work"), (9, "/image")]));
        let read = CheckpointOptions::from_request(Some(&any(LINUX_CHECKPOINT, sent))).unwrap();
        assert_eq!(read.exit, Some(true));
        assert_eq!(
            (read.work_path.as_str(), read.image_path.as_str()),
            ("/work", "/image")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(name in 0usize..6, value: Vec<u8>) {
            let names = [RUNC_OPTIONS, RUNTIME_OPTIONS, LINUX_CREATE, RUNC_CHECKPOINT, LINUX_CHECKPOINT, "x"];
            let any = any(names[name], value);
            let _ = CreateOptions::from_request(Some(&any));
            let _ = CheckpointOptions::from_request(Some(&any));
        }
    }
}
