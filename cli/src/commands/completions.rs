//! `cedana completions`.

use clap::CommandFactory;
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::args::{Cli, Shell};
use crate::error::Result;
use crate::output::to_stdout;

/// Prints the completions of a shell.
///
/// # Errors
/// None.
pub(crate) fn print(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    match shell {
        Shell::Bash => generate(Bash, &mut command, "cedana", &mut script),
        Shell::Zsh => generate(Zsh, &mut command, "cedana", &mut script),
        Shell::Fish => generate(Fish, &mut command, "cedana", &mut script),
    }
    to_stdout(script);
    Ok(())
}
