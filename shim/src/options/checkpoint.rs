//! The options of a Checkpoint request.

use containerd_shim::protos::{
    protobuf::{Message, UnknownValueRef, well_known_types::any::Any},
    shim::oci,
};

use super::fields::{
    Fields, Value, malformed, message_name, other, unknown_type, warn_unknown_field,
};
use crate::error::Result;

pub(super) const RUNC_CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";
pub(super) const LINUX_CHECKPOINT: &str = "containerd.linux.runc.CheckpointOptions";
/// The number of [`CheckpointOptions::parent_path`], which the shim crates don't
/// know yet.
const PARENT_PATH: u32 = 10;
/// The number of [`CheckpointOptions::stopped_later`], which only the daemon of the
/// command `cedana` sends. Other shims ignore it.
const STOPPED_LATER: u32 = 50_000;

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
    /// The client stops the container afterwards, when the checkpoint is stored.
    pub(crate) stopped_later: bool,
}

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
        let mut stopped_later = false;
        for (number, value) in o.special_fields.unknown_fields().iter() {
            match (number, value) {
                (PARENT_PATH, UnknownValueRef::LengthDelimited(path)) => {
                    parent_path = str::from_utf8(path)
                        .map_err(malformed(RUNC_CHECKPOINT))?
                        .to_owned();
                }
                (STOPPED_LATER, UnknownValueRef::Varint(on)) => stopped_later = on != 0,
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
            stopped_later,
        })
    }

    /// Reads the first shim API's message, as of Create. The
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
