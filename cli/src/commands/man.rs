//! `cedana man`: the manual pages in docs/man, made from the commands.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::args::Cli;
use crate::error::{Error, Result};

/// Writes cedana.1, and a page for each command.
///
/// # Errors
/// The system's.
pub(crate) fn write(directory: &Path) -> Result<()> {
    for (name, text) in pages()? {
        let path = directory.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = Cli::command();
    command.build();
    let mut found = Vec::new();
    collect(&command, "", &mut found);
    found
        .into_iter()
        .map(|(name, command)| Ok((format!("{name}.1"), page(command)?)))
        .collect()
}

/// The commands with their own page. `client` has the same commands again.
fn collect<'a>(command: &'a Command, parent: &str, found: &mut Vec<(String, &'a Command)>) {
    let name = match parent {
        "" => command.get_name().to_owned(),
        parent => format!("{parent}-{}", command.get_name()),
    };
    for child in command.get_subcommands() {
        if !child.is_hide_set() && !["client", "help"].contains(&child.get_name()) {
            collect(child, &name, found);
        }
    }
    found.push((name, command));
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .manual("Cedana for containerd")
        .source("")
        .date("")
        .render(&mut text)
        .map_err(|error| Error::other("make a manual page", error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_in_docs_are_those_of_the_commands() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man"));
        for (name, text) in pages().expect("pages") {
            let found = fs::read(docs.join(&name)).unwrap_or_default();
            assert!(
                found == text,
                "docs/man/{name} is not up to date; run: cargo run -p cedana-cli -- man docs/man"
            );
        }
    }
}
