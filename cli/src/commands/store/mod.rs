//! `cedana store`: the memory that checkpoints share.
//!
//! The commands run in this process, as root: they work while no daemon runs.

mod check;
mod gc;
mod stats;

use cedana_checkpoint::output::printable::printable_json;
use cedana_config::Config;
use cedana_store::Store;
use nix::unistd::geteuid;

use super::{Context, Outcome};
use crate::args::StoreCommand;
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Runs a command of the store.
///
/// # Errors
/// The user is not root, or the store can't be used.
pub(crate) fn run(context: &Context, command: StoreCommand) -> Result<Outcome> {
    if !geteuid().is_root() {
        return Err(Error::Other(
            "the store belongs to root; run this command with sudo".to_owned(),
        ));
    }
    let settings = Config::load()?.store;
    if !settings.path.exists() {
        return absent(&settings, &command);
    }
    match command {
        StoreCommand::Check(options) => check::run(&settings, &options),
        StoreCommand::Stats { json } => stats::run(&settings, json).map(|()| Outcome::Done),
        StoreCommand::Gc(options) => {
            let ended = context.block_on(gc::run(&settings, &options));
            ended.map(|()| Outcome::Done)
        }
    }
}

/// A store that does not exist is empty.
fn absent(settings: &cedana_config::Store, command: &StoreCommand) -> Result<Outcome> {
    let json = match command {
        StoreCommand::Check(options) => options.json,
        StoreCommand::Stats { json } => *json,
        StoreCommand::Gc(options) => options.json,
    };
    to_stdout(match json {
        true => json_line(&serde_json::json!({"path": settings.path, "exists": false})),
        false => format!(
            "there is no store at {} yet: no checkpoint's memory was put there\n",
            settings.path.display()
        ),
    });
    Ok(Outcome::Done)
}

fn open(settings: &cedana_config::Store) -> Result<Store> {
    Store::open(&settings.path).map_err(failed)
}

fn failed(error: cedana_store::Error) -> Error {
    Error::Other(error.to_string())
}

/// An object on a line, which a terminal only shows.
fn json_line(object: &serde_json::Value) -> String {
    printable_json(&object.to_string()) + "\n"
}
