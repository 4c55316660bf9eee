//! `cedana checkpoint` for containers: what the store's catalogue says.
//!
//! The catalogue is read in this process, as root, so this works while no daemon runs. The
//! directories and images belong to their engines, and are not touched.

mod delete;
mod keep;

use cedana_checkpoint::output::printable::{printable, printable_json, printable_lines};
use cedana_config::Config;
use cedana_daemon::memory_store::place;
use cedana_store::Store;
use cedana_store::catalogue::{Catalogue, CheckpointId, CheckpointRow, FILE, Named, SHORTEST};
use nix::unistd::geteuid;
use serde_json::{Value, json};

pub(crate) use delete::delete;
pub(crate) use keep::{pin, tag, untag};

use crate::error::{Error, Result};
use crate::output::table::Table;
use crate::output::{to_stderr, to_stdout, units};

/// The digits of an ID in a table.
const SHOWN: usize = 12;

/// A checkpoint, with what people gave it.
struct Listed {
    row: CheckpointRow,
    tags: Vec<String>,
    pinned: bool,
}

/// Prints the checkpoints of containers. Others than root see none. `after` is whether
/// something was printed before.
pub(crate) fn list(as_json: bool, after: bool) {
    let found = match open(false) {
        Ok(Some(mut catalogue)) => read(&mut catalogue),
        Ok(None) => return,
        Err(error) => Err(error),
    };
    match found {
        // The checkpoints of jobs are listed all the same.
        Err(error) => to_stderr(&format!(
            "cedana: warning: the checkpoints of containers are not listed: {error}\n"
        )),
        Ok(found) if as_json => {
            let lines = found
                .iter()
                .map(|one| printable_json(&json(one).to_string()) + "\n");
            to_stdout(lines.collect::<String>());
        }
        Ok(found) if found.is_empty() => {}
        Ok(found) => {
            if after {
                to_stdout("\n");
            }
            to_stdout(printable_lines(&table(&found).text()));
        }
    }
}

/// The catalogue; `None` for others than root, and if there is none yet.
fn open(writable: bool) -> Result<Option<Catalogue>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let path = Config::load()?.store.path;
    if !path.join(FILE).exists() {
        return Ok(None);
    }
    let store = Store::open(&path).map_err(failed)?;
    let opened = match writable {
        true => store.catalogue(),
        false => Catalogue::open_read_only(store.path()),
    };
    opened.map(Some).map_err(failed)
}

fn failed(error: cedana_store::Error) -> Error {
    Error::Other(error.to_string())
}

/// The checkpoints that are no job's.
fn read(catalogue: &mut Catalogue) -> Result<Vec<Listed>> {
    let tags = catalogue.tags().map_err(failed)?;
    let pins = catalogue.pins().map_err(failed)?;
    let rows = catalogue.rows().map_err(failed)?.into_iter();
    Ok(rows
        .filter(|row| row.id.is_some() && row.job.is_none())
        .map(|row| {
            let of_row = tags.iter().filter(|(_, number)| *number == row.number);
            Listed {
                tags: of_row.map(|(tag, _)| tag.clone()).collect(),
                pinned: pins.contains(&row.number),
                row,
            }
        })
        .collect())
}

fn table(found: &[Listed]) -> Table {
    let mut table = Table::new(&[
        "ID", "NAME", "ENGINE", "AGE", "MEMORY", "SIZE", "NEW", "KEPT", "PATH",
    ]);
    for Listed { row, tags, pinned } in found {
        let mut kept = tags.clone();
        if *pinned {
            kept.insert(0, "pinned".to_owned());
        }
        if kept.is_empty() {
            kept.push("-".to_owned());
        }
        table.push(vec![
            id(row)[..SHOWN].to_owned(),
            name(row).to_owned(),
            engine(row).unwrap_or("-").to_owned(),
            units::ago(row.created.seconds.saturating_mul(1_000_000)),
            units::size(row.raw_bytes),
            units::size(row.bytes),
            units::size(row.new_bytes),
            kept.join(","),
            row.path.display().to_string(),
        ]);
    }
    table
}

/// A checkpoint as JSON. The keys are documented in docs/dump.md.
fn json(Listed { row, tags, pinned }: &Listed) -> Value {
    json!({
        "number": null,
        "job": null,
        "id": row.id.as_ref().map(CheckpointId::as_str),
        "name": row.name,
        "engine": engine(row),
        "created": units::rfc3339(row.created.seconds.saturating_mul(1_000_000)),
        "raw_bytes": row.raw_bytes,
        "bytes": row.bytes,
        "new_bytes": row.new_bytes,
        "path": row.path.to_string_lossy(),
        "tags": tags,
        "pinned": pinned,
    })
}

/// All digits of a checkpoint's ID.
fn id(row: &CheckpointRow) -> &str {
    row.id.as_ref().map_or("-", CheckpointId::as_str)
}

fn name(row: &CheckpointRow) -> &str {
    row.name.as_deref().unwrap_or("-")
}

/// The engine; `None` for a checkpoint that only its path is known of.
fn engine(row: &CheckpointRow) -> Option<&str> {
    let engine = row.subject.get("engine").and_then(Value::as_str);
    engine.filter(|engine| *engine != "none")
}

/// The checkpoint with this ID; `None` if there is none, or it is no ID, or this user is
/// not root.
///
/// # Errors
/// The store can't be read, or several IDs begin like this.
pub(crate) fn find(text: &str) -> Result<Option<CheckpointRow>> {
    let Some(mut catalogue) = open(false)? else {
        return Ok(None);
    };
    match catalogue.named(text).map_err(failed)? {
        Named::One(row) => Ok(Some(*row)),
        Named::Nothing => Ok(None),
        Named::Several(ids) => {
            let ids: Vec<&str> = ids.iter().map(CheckpointId::as_str).collect();
            Err(Error::Other(format!(
                "{text} is the beginning of several IDs ({}); give more digits",
                ids.join(", ")
            )))
        }
    }
}

/// Whether a text could be the ID of one.
pub(crate) fn is_id(text: &str) -> bool {
    (SHORTEST..=32).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Shows what the catalogue says of a checkpoint, unless its directory is found: then that
/// is returned.
///
/// # Errors
/// The store can't be read.
pub(crate) fn inspect(row: &CheckpointRow, as_json: bool) -> Result<Option<String>> {
    if let Some(path) = place(row) {
        return Ok(Some(path.display().to_string()));
    }
    let Some(mut catalogue) = open(false)? else {
        return Err(missing(id(row)));
    };
    let details = catalogue.details(row).map_err(failed)?;
    let found = read(&mut catalogue)?;
    let Some(one) = found.iter().find(|one| one.row.number == row.number) else {
        return Err(missing(id(row)));
    };
    let mut described = json(one);
    described["subject"] = row.subject.clone();
    described["details"] = details;
    if as_json {
        to_stdout(printable_json(&described.to_string()) + "\n");
        return Ok(None);
    }
    let mut table = Table::new(&["ID", id(row)]);
    for (name, value) in [
        ("Name", name(row).to_owned()),
        ("Engine", engine(row).unwrap_or("-").to_owned()),
        ("Created", text(&described["created"])),
        ("Memory", units::size(row.raw_bytes)),
        (
            "Size",
            format!("{} outside the store", units::size(row.bytes)),
        ),
        (
            "New",
            format!("{} added to the store", units::size(row.new_bytes)),
        ),
        ("Tags", one.tags.join(",")),
        ("Pinned", one.pinned.to_string()),
        ("Written to", row.path.display().to_string()),
    ] {
        table.push(vec![name.to_owned(), value]);
    }
    let mut shown = printable_lines(&table.text());
    shown.push_str("Its directory or image was not looked into: it is the engine's, or was removed. --json shows the machine, the versions and the cost.\n");
    to_stdout(shown);
    Ok(None)
}

/// Where a checkpoint's directory or archive is.
///
/// # Errors
/// It was not found.
pub(crate) fn found(row: &CheckpointRow) -> Result<std::path::PathBuf> {
    place(row).ok_or_else(|| {
        Error::Other(format!(
            "the directory of checkpoint {} was not found: it is in an image of containerd, or was removed; give its path",
            id(row)
        ))
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn missing(text: &str) -> Error {
    Error::Other(format!(
        "there is no checkpoint {} in the store; `cedana checkpoint list` shows IDs, of which {SHORTEST} digits are enough",
        printable(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_store::clock::Moment;

    pub(super) fn listed(engine: &str) -> Listed {
        let row = CheckpointRow {
            number: 3,
            id: CheckpointId::parse(&"0123456789abcdef".repeat(2)),
            name: Some("db".to_owned()),
            uid: 0,
            job: None,
            path: "/var/lib/a".into(),
            created: Moment {
                seconds: 1_700_000_000,
                boot: String::new(),
                since_boot: 0,
            },
            seen: None,
            remote: false,
            raw_bytes: 3 << 30,
            bytes: 5 << 20,
            new_bytes: 7 << 20,
            subject: json!({"engine": engine, "container": "c1"}),
            is_kept: true,
        };
        Listed {
            row,
            tags: vec!["good".to_owned()],
            pinned: true,
        }
    }

    #[test]
    fn a_checkpoint_is_shown_with_its_sizes() {
        let text = table(&[listed("docker")]).text();
        for part in [
            "0123456789ab ",
            "db",
            "docker",
            "3.0 GiB",
            "5.0 MiB",
            "7.0 MiB",
            "pinned,good",
            "/var/lib/a",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = json(&listed("none"));
        assert_eq!(json["id"].as_str().map(str::len), Some(32));
        assert_eq!(json["engine"], Value::Null);
        assert_eq!(json["created"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn numbers_of_checkpoints_are_no_ids() {
        assert!(!is_id("1234567") && !is_id("job") && !is_id("ABCDEF01"));
        assert!(is_id("12345678") && is_id(&"0".repeat(32)));
        assert!(!is_id(&"0".repeat(33)));
    }
}
