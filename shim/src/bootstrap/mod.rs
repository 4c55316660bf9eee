//! What containerd calls the shim binary for (containerd,
//! core/runtime/v2/README.md, "Commands"):
//!
//! | call | here |
//! |---|---|
//! | `start`, in the bundle of a new container | [`start`]: answers with the address of a shim, a fresh one or the pod's |
//! | `-socket ADDRESS`, by `start` | [`serve`]: is that shim |
//! | `delete`, after a shim that was killed | [`delete`]: cleans up what it left |
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

use containerd_shim::Flags;

use crate::error::{Context, Error, Result};

/// The name that containerd knows the runtime by.
pub(crate) const RUNTIME_NAME: &str = "io.containerd.cedana.v2";

/// Tells the shim's process that `start` was called by the file name of
/// containerd's own shim.
const STOCK_NAME_VARIABLE: &str = "CEDANA_SHIM_NAMED_AS_STOCK";

/// Does what `flags` ask for.
///
/// # Errors
/// The reason, for containerd to pass on to its client.
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

/// The largest input that containerd's own shims read, too.
const INPUT_LIMIT: u64 = 10 << 20;

fn read_stdin() -> Result<Vec<u8>> {
    let mut input = Vec::new();
    // Typed at a terminal there is none.
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

/// The OCI runtime where a container's options name none.
fn default_runtime() -> Result<PathBuf> {
    cedana_config::Config::load()
        .map(|config| config.runtime)
        .map_err(|e| Error::InvalidArgument(e.to_string()))
}
