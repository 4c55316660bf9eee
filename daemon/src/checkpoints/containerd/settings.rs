//! The settings of a call, as far as a shim takes them from a client.
//!
//! The shim reads the node's settings and the container's annotations, and there is no
//! field in containerd's API for others. What a call asks for beyond that is reported.

use cedana_config::{Config, Tcp};
use prost::Message;
use prost_types::Any;

use super::api::runc::CheckpointOptions;
use crate::checkpoints::{Failure, Kind};

/// The name of the options, which containerd's own shim and that of cedana take.
const OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";

/// Whether a runtime is the shim of cedana, by its name.
pub(super) fn is_cedana(runtime: &str) -> bool {
    runtime.starts_with("io.containerd.cedana.")
}

/// The options of a checkpoint.
///
/// It never ends the task: that is done when the image exists, so that a failure after
/// the dump, such as a full disk, loses nothing. The shim of cedana is told, so that it
/// refuses a checkpoint that could never be restored.
///
/// File locks are always kept, as containerd's client does: from that the shim concludes
/// that the writable layer has been read, and that the task must not run meanwhile.
pub(super) fn checkpoint_options(config: &Config, runtime: &str, leave_running: bool) -> Any {
    let ours = is_cedana(runtime);
    let options = CheckpointOptions {
        exit: false,
        // The shim of cedana has its own settings.
        open_tcp: !ours && config.checkpoint.tcp_established,
        external_unix_sockets: !ours && config.checkpoint.ext_unix_sk,
        file_locks: true,
        stopped_later: ours && !leave_running,
    };
    Any {
        type_url: OPTIONS.to_owned(),
        value: options.encode_to_vec(),
    }
}

/// The node's settings, which the shim has.
fn node() -> Result<Config, Failure> {
    Config::load().map_err(|error| Failure::new(Kind::State, error.to_string()))
}

/// Settings of a dump that the shim does not get, as a warning.
pub(super) fn not_for_the_dump(config: &Config, runtime: &str) -> Result<Option<String>, Failure> {
    let node = node()?.checkpoint;
    let call = &config.checkpoint;
    let ours = is_cedana(runtime);
    let differs = |call: bool, node: bool| ours && node != call;
    let differing = [
        ("doubtful", call.doubtful != node.doubtful),
        (
            "tcp_established",
            differs(call.tcp_established, node.tcp_established),
        ),
        ("file_locks", call.file_locks != node.file_locks),
        ("ext_unix_sk", differs(call.ext_unix_sk, node.ext_unix_sk)),
        ("link_remap", call.link_remap != node.link_remap),
        ("ghost_limit", call.ghost_limit != node.ghost_limit),
        ("timeout", call.timeout != node.timeout),
        ("compression", call.compression != node.compression),
        ("level", call.level != node.level),
    ];
    Ok(warning("checkpoint", &differing))
}

/// Settings of a restore that the shim does not get, as a warning.
pub(super) fn not_for_the_restore(config: &Config) -> Result<Option<String>, Failure> {
    let node = node()?.restore;
    let call = &config.restore;
    let differing = [
        ("mode", call.mode != node.mode),
        ("tcp", call.tcp != node.tcp && call.tcp != Tcp::Close),
        ("settle", call.settle != node.settle),
    ];
    Ok(warning("restore", &differing))
}

/// Whether this call, other than the node, has TCP connections closed.
pub(super) fn closes_tcp(config: &Config) -> Result<bool, Failure> {
    Ok(config.restore.tcp == Tcp::Close && node()?.restore.tcp != Tcp::Close)
}

fn warning(section: &str, differing: &[(&str, bool)]) -> Option<String> {
    let names = differing.iter().filter(|(_, differs)| *differs);
    let names: Vec<_> = names.map(|(name, _)| format!("{section}.{name}")).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} of this call has no effect: a container of containerd takes settings from /etc/cedana/config.toml and its own annotations",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_effect_are_named() {
        let text = warning("checkpoint", &[("level", true), ("timeout", false)]);
        let text = text.expect("a warning");
        assert!(text.starts_with("checkpoint.level of this call"), "{text}");
        assert_eq!(warning("checkpoint", &[("level", false)]), None);
    }

    #[test]
    fn a_checkpoint_never_ends_the_task() {
        let options = |runtime, leave_running| {
            let any = checkpoint_options(&Config::default(), runtime, leave_running);
            CheckpointOptions::decode(&*any.value).expect("options")
        };
        let stock = options("io.containerd.runc.v2", false);
        assert!(!stock.exit && stock.open_tcp && stock.file_locks && !stock.stopped_later);
        let ours = options("io.containerd.cedana.v2", false);
        assert!(!ours.exit && !ours.open_tcp && ours.file_locks && ours.stopped_later);
        assert!(!options("io.containerd.cedana.v2", true).stopped_later);
    }
}
