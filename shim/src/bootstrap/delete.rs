//! `delete`: cleans up after a killed shim: the container's processes, the OCI
//! runtime's state, and mounts.

use std::{
    env,
    io::{self, Write},
    path::Path,
    process::Command,
    time::SystemTime,
};

use containerd_shim::{
    DeleteResponse, Flags,
    protos::protobuf::{Message, MessageField},
};

use super::{default_runtime, warn_on_stderr};
use crate::container::pid_number;
use crate::{
    container,
    error::{Context, Error, Result},
    options::CreateOptions,
    rootfs,
    runtime::{Runtime, read_pid_now},
};

/// The exit status of a container whose real one is unknown: that of SIGKILL, as in
/// containerd's own shim.
const KILLED: u32 = 128 + 9;

/// Cleans up and returns the answer for containerd, which then publishes an exit
/// event.
///
/// # Errors
/// Only if the working directory is unknown. A step that fails
/// is reported on stderr, which containerd logs, and the other steps are still taken.
pub(super) fn delete(flags: &Flags) -> Result<Vec<u8>> {
    // containerd calls `delete` in the bundle of any container of the pod.
    let here = env::current_dir().context(|| "find the working directory")?;
    let bundle = here.with_file_name(&flags.id);
    let options = CreateOptions::load(&bundle);
    let default = default_runtime(warn_on_stderr);
    let runtime = Runtime::new(&options, &default, &flags.namespace, &bundle);
    runtime.unmount_left_root(&flags.id);
    report(run(runtime.delete(&flags.id)));
    report(rootfs::unmount_now(&bundle.join("rootfs")));
    container::remove_unpacked_checkpoint(&bundle);
    let response = DeleteResponse {
        pid: init_pid(&bundle),
        exit_status: KILLED,
        exited_at: MessageField::some(SystemTime::now().into()),
        ..DeleteResponse::default()
    };
    response
        .write_to_bytes()
        .map_err(|e| Error::Runtime(format!("encode the answer to delete: {e}")))
}

fn run(mut command: Command) -> Result<()> {
    let output = command
        .output()
        .context(|| "run the OCI runtime's delete")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Runtime(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Init's PID; 0 for a container that never had a process.
fn init_pid(bundle: &Path) -> u32 {
    pid_number(read_pid_now(&bundle.join(container::INIT_PID_FILE)).ok())
}

fn report(result: Result<()>) {
    if let Err(e) = result {
        // The next step is taken even if containerd has closed the stream.
        let _ = writeln!(io::stderr(), "{}: {e}", super::RUNTIME_NAME);
    }
}
