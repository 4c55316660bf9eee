//! Every other verb: execs the wrapped runtime in this process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use cedana_config::Config;

use crate::cli::Globals;
use crate::oci::runtime::{Error, Runtime, unmount_leftover_root};

/// Execs the wrapped runtime. Returns only if that fails.
pub(crate) fn exec(args: &[OsString]) -> Result<Infallible, Error> {
    let runtime = Runtime::find(&Config::load_runtime()?)?;
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
