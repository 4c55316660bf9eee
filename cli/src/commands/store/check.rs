//! `cedana store check`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use cedana_checkpoint::output::printable::{printable, printable_lines};
use cedana_daemon::memory_store::{default_places, find_checkpoints};
use cedana_store::check::{Finding, Options, Outcome as Found, Progress, check};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{failed, json_line, open};
use crate::args::StoreCheck;
use crate::commands::Outcome;
use crate::error::Result;
use crate::output::{to_stderr, to_stdout};

/// Checks the store.
///
/// # Errors
/// It is in use, or can't be read.
pub(super) fn run(settings: &cedana_config::Store, options: &StoreCheck) -> Result<Outcome> {
    // The threads that verify inherit it.
    cedana_daemon::lower_priority();
    let store = open(settings)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("verifying {binary_bytes} of {binary_total_bytes} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = AtomicU64::new(0);
    let progress = |progress: Progress| {
        // Two threads may tell in another order than they finished.
        let most = done
            .fetch_max(progress.done, Ordering::Relaxed)
            .max(progress.done);
        bar.set_length(progress.total);
        bar.set_position(most);
    };
    let find = |known: &[PathBuf]| {
        let mut places = [default_places(), options.directory.clone()].concat();
        places.extend(known.iter().filter(|path| path.exists()).cloned());
        find_checkpoints(&places, &|text| {
            to_stderr(&format!("cedana: warning: {}\n", printable(&text)));
        })
    };
    let found = check(
        &store,
        &Options {
            repair: options.repair,
            threads: thread::available_parallelism().map_or(1, usize::from),
            progress: &progress,
            find_checkpoints: &find,
        },
    );
    bar.finish_and_clear();
    let found = found.map_err(failed)?;
    to_stdout(match options.json {
        true => json_line(&json(&found)),
        false => printable_lines(&text(&found, options.repair)),
    });
    Ok(match found.is_damaged() {
        true => Outcome::Exit(1),
        false => Outcome::Done,
    })
}

fn json(found: &Found) -> Value {
    let findings = found.findings.iter().map(|finding| {
        let kind = match finding {
            Finding::Catalogue { .. } => "catalogue",
            Finding::Pack { .. } => "pack",
            Finding::Chunk { .. } => "chunk",
            Finding::Checkpoint { .. } => "checkpoint",
            _ => "other",
        };
        let id = match finding {
            Finding::Checkpoint { id: Some(id), .. } => Some(id.as_str().to_owned()),
            _ => None,
        };
        json!({"kind": kind, "id": id, "text": finding.to_string()})
    });
    json!({
        "packs": found.packs,
        "chunks": found.chunks,
        "damaged": found.is_damaged(),
        "findings": findings.collect::<Vec<_>>(),
        "repaired": found.repaired,
    })
}

fn text(found: &Found, repair: bool) -> String {
    let mut text = String::new();
    for finding in &found.findings {
        text += &format!("{finding}\n");
    }
    for repaired in &found.repaired {
        text += &format!("repaired: {repaired}\n");
    }
    text += &format!("verified {} chunks in {} packs", found.chunks, found.packs);
    text += match (found.is_damaged(), repair) {
        (false, _) => ": all are good\n",
        (true, false) => "; `cedana store check --repair` keeps what is good\n",
        (true, true) => "; the checkpoints above have lost memory\n",
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named_with_the_remedy() {
        let mut found = Found {
            packs: 2,
            chunks: 7,
            ..Found::default()
        };
        assert_eq!(
            text(&found, false),
            "verified 7 chunks in 2 packs: all are good\n"
        );
        found.findings.push(Finding::Checkpoint {
            id: None,
            name: Some("db".to_owned()),
            path: "/var/lib/a".into(),
            missing: 3,
        });
        assert!(text(&found, false).contains("--repair"));
        found.repaired.push("3 chunks were forgotten".to_owned());
        let text = text(&found, true);
        assert!(text.contains("db, /var/lib/a needs 3 chunks"), "{text}");
        assert!(
            text.contains("repaired: 3 chunks") && text.contains("have lost memory"),
            "{text}"
        );
        assert_eq!(json(&found)["findings"][0]["kind"], "checkpoint");
        assert_eq!(json(&found)["damaged"], true);
    }
}
