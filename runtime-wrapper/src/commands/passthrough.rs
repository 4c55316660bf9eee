//! Every verb but `checkpoint` and `restore`: the wrapped runtime's, in this
//! process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use cedana_config::Config;

use crate::cli;
use crate::oci::runtime::{Error, Runtime, unmount_left_root};

/// Becomes the wrapped runtime. Returns only if that fails.
pub(crate) fn exec(args: &[OsString]) -> Result<Infallible, Error> {
    let runtime = Runtime::find(&Config::load_runtime()?)?;
    let globals = cli::globals(args);
    if let Some(id) = globals.deletes(args) {
        unmount_left_root(globals.root.as_deref(), id);
    }
    let source = runtime.command(args).exec();
    Err(Error::Unusable {
        program: runtime.program,
        source,
    })
}
