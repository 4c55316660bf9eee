//! Every other verb: execs the wrapped runtime in this process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use cedana_config::Config;

use crate::cli::Globals;
use crate::oci::runtime::{Error, Runtime, unmount_leftover_root};
use crate::output::report::Reporter;

/// Execs the wrapped runtime. Returns only if that fails.
///
/// A mistake in the settings stops checkpoints and restores only: a container must be
/// killed and deleted in any case. It is reported in the log, because stderr may be the
/// container's own (`run`, `exec`), and because containerd parses the output of some
/// verbs together with stderr (go-runc, `State` and `Ps`).
pub(crate) fn exec(args: &[OsString], reporter: &Reporter) -> Result<Infallible, Error> {
    let (runtime, mistake) = Config::load_runtime();
    if let Some(mistake) = mistake {
        reporter.quiet_warning(&mistake.warning());
    }
    let runtime = Runtime::find(&runtime)?;
    let globals = Globals::parse(args);
    if let Some(id) = globals.deleted_container(args) {
        unmount_leftover_root(globals.root.as_deref(), &id);
    }
    let source = runtime.command(args).exec();
    Err(Error::Unusable {
        program: runtime.program,
        source,
    })
}
