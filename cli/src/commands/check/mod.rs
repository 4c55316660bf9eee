//! `cedana check`: this machine, or what would stop a checkpoint.
//!
//! ```text
//! check              this program looks itself, so it works without a daemon
//!   kernel criu network privileges engines docker node   what is looked at
//!   finding                                              one line of the result
//! check job ...      the daemon looks, because only root sees other users' processes
//!   answer                                               its result
//! ```

mod answer;
mod criu;
mod docker;
mod engines;
mod finding;
mod kernel;
mod network;
mod node;
mod privileges;
mod program;
mod search_path;

use std::path::PathBuf;

use cedana_api::v1;
use cedana_checkpoint::output::printable::printable_json;
use cedana_config::Config;
use nix::unistd::geteuid;

use super::{Context, Outcome, config, subject};
use crate::args::{Check, Subject};
use crate::error::{Error, Result};
use crate::output::marks::Marks;
use crate::output::to_stdout;

use finding::{Finding, Verdict};

/// Checks this machine, or what would stop a checkpoint of something.
///
/// # Errors
/// The check could not be made.
pub(crate) async fn run(context: &Context, check: Check) -> Result<Outcome> {
    if check.shell_job && !matches!(check.what, Some(Subject::Process(_))) {
        return Err(Error::Other(
            "--shell-job is for `cedana check process`".to_owned(),
        ));
    }
    let is_fit = match check.what {
        None => machine(context, check.json, check.dir).await,
        Some(what) => {
            let settings = subject::Settings::load()?;
            let directory = match what {
                // Its checkpoint is an image, which containerd keeps.
                Subject::Containerd(_) => check.dir,
                _ => check.dir.or(settings.directory),
            };
            let request = v1::CheckRequest {
                subject: Some(subject::of(what)?),
                directory: subject::optional(directory.as_deref())?,
                shell_job: check.shell_job,
                settings: settings.sent,
            };
            let daemon = context.daemon().await?;
            let found = daemon.checkpoints().check(request).await?.into_inner();
            to_stdout(match check.json {
                true => json_line(&answer::json(&found)),
                false => answer::text(&found, Marks::of_locale()),
            });
            found.obstacles.is_empty()
        }
    };
    Ok(match is_fit {
        true => Outcome::Done,
        false => Outcome::Exit(1),
    })
}

/// Checks this machine, and prints each finding when it is made. Returns whether nothing
/// that is needed is missing.
async fn machine(context: &Context, json: bool, directory: Option<PathBuf>) -> bool {
    let marks = Marks::of_locale();
    let mut is_fit = true;
    let mut tell = |finding: Finding| {
        is_fit &= finding.verdict != Verdict::Missing;
        to_stdout(match json {
            true => json_line(&finding.json()),
            false => finding.text(marks),
        });
    };
    let machine = Machine::look(directory);
    tell(kernel::version());
    for finding in criu::all(&machine).await {
        tell(finding);
    }
    tell(kernel::userfaultfd(&machine));
    tell(kernel::fuse(&machine));
    tell(kernel::cgroups());
    tell(network::lock(&machine).await);
    tell(privileges::capabilities(&machine));
    for finding in engines::all(&machine).await {
        tell(finding);
    }
    for finding in docker::all(&machine).await {
        tell(finding);
    }
    tell(node::settings(&machine));
    tell(node::key(&machine));
    for finding in node::room(&machine) {
        tell(finding);
    }
    tell(node::daemon(context).await);
    if !machine.is_root && !json {
        to_stdout("\nwithout root some things can't be seen: sudo cedana check\n");
    }
    is_fit
}

/// An object on a line, which a terminal only shows: names of processes are in it.
fn json_line(object: &serde_json::Value) -> String {
    printable_json(&object.to_string()) + "\n"
}

/// What several checks need to know.
struct Machine {
    is_root: bool,
    /// The settings of this user, or the mistake in them.
    config: std::result::Result<Config, String>,
    /// The directory of the command line.
    directory: Option<PathBuf>,
}

impl Machine {
    fn look(directory: Option<PathBuf>) -> Self {
        let config = Config::for_user(config::home().as_deref(), |_| {});
        Self {
            is_root: geteuid().is_root(),
            config: config
                .map(|(config, _)| config)
                .map_err(|error| error.to_string()),
            directory,
        }
    }

    /// The settings, or the defaults if there is a mistake in them, which is a finding of
    /// its own.
    fn config(&self) -> Config {
        self.config.clone().unwrap_or_default()
    }
}
