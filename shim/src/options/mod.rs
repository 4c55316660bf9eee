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
//!
//! ```text
//! create      the options of Create
//! checkpoint  the options of Checkpoint
//! fields      protobuf messages that the shim crates don't define
//! ```

mod checkpoint;
mod create;
mod fields;
#[cfg(test)]
mod tests;

pub(crate) use checkpoint::CheckpointOptions;
pub(crate) use create::CreateOptions;
