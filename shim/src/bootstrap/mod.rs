//! The commands with which containerd calls the shim binary (containerd,
//! core/runtime/v2/README.md, "Commands"):
//!
//! | call | here |
//! |---|---|
//! | `start`, in the bundle of a new container | [`start`]: returns the address of a new shim or of the pod's shim |
//! | `-socket ADDRESS`, by `start` | [`serve`]: runs the shim |
//! | `delete`, after a shim was killed | [`delete`]: cleans up after that shim |
//! | `-info` | [`info`]: describes the runtime |

mod delete;
mod engine;
mod info;
mod serve;
mod start;

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use cedana_config::Config;
use containerd_shim::Flags;

use crate::error::{Context, Error, Result};

/// The runtime's name in containerd.
pub(crate) const RUNTIME_NAME: &str = "io.containerd.cedana.v2";

/// The variable that `start` sets for the shim process if containerd called `start`
/// by the file name of containerd's own shim.
const STOCK_NAME_VARIABLE: &str = "CEDANA_SHIM_NAMED_AS_STOCK";

/// Runs the command in `flags`.
///
/// # Errors
/// The reason, which containerd passes on to its client.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    if flags.info {
        return write_stdout(&info::describe(&read_stdin()?)?);
    }
    match flags.action.as_str() {
        "start" => write_stdout(&start::start(&flags, &read_stdin()?).await?),
        "delete" => write_stdout(&delete::delete(&flags)?),
        "" if !flags.socket.is_empty() => serve::serve(&flags).await,
        other => Err(Error::InvalidArgument(format!(
            "unknown command {other:?}: containerd calls start, delete or -info"
        ))),
    }
}

/// The most that is read from stdin, the same as in containerd's own shims.
const INPUT_LIMIT: u64 = 10 << 20;

fn read_stdin() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    // At a terminal there is no input to wait for.
    if !io::IsTerminal::is_terminal(&io::stdin()) {
        io::stdin()
            .lock()
            .take(INPUT_LIMIT)
            .read_to_end(&mut input)
            .context(|| "read stdin")?;
    }
    Ok(input)
}

fn write_stdout(answer: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(answer)
        .and_then(|()| out.flush())
        .context(|| "write stdout")
}

/// The OCI runtime for containers whose options name none. `warn` is called with a
/// mistake in the settings, which stops checkpoints and restores only.
fn default_runtime(warn: impl FnOnce(&str)) -> PathBuf {
    let (runtime, mistake) = Config::load_runtime();
    if let Some(mistake) = mistake {
        warn(&mistake.warning());
    }
    runtime
}

/// Writes a warning on stderr, which containerd logs if it called `delete`.
fn warn_on_stderr(warning: &str) {
    // A closed stderr can't be reported anywhere.
    let _ = writeln!(io::stderr(), "{RUNTIME_NAME}: warning: {warning}");
}
