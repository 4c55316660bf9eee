//! `cedana store gc`.

use cedana_checkpoint::output::printable::{printable, printable_lines};
use cedana_store::collect::Report;
use serde_json::{Value, json};

use super::{failed, json_line, open};
use crate::args::StoreGc;
use crate::error::Result;
use crate::output::units::size;
use crate::output::{to_stderr, to_stdout};

/// Removes memory that no checkpoint needs.
///
/// # Errors
/// The store can't be read or changed.
pub(super) async fn run(settings: &cedana_config::Store, options: &StoreGc) -> Result<()> {
    if options.recovered {
        let mut catalogue = open(settings)?.catalogue().map_err(failed)?;
        catalogue.remove_recovered().map_err(failed)?;
    }
    let report = cedana_daemon::memory_store::collect(settings, options.dry_run).await;
    let report = report.map_err(failed)?;
    if options.json {
        to_stdout(json_line(&json(&report)));
    } else {
        to_stdout(printable_lines(&text(&report)));
    }
    for warning in warnings(&report) {
        to_stderr(&format!("cedana: warning: {}\n", printable(&warning)));
    }
    Ok(())
}

fn json(report: &Report) -> Value {
    let removed = report.removed.iter().map(|one| {
        json!({
            "id": one.id.as_ref().map(|id| id.as_str()),
            "name": one.name,
            "path": one.path.to_string_lossy(),
        })
    });
    let unknown = report
        .unknown
        .iter()
        .map(|(path, why)| json!({"path": path.to_string_lossy(), "reason": why}));
    json!({
        "dry_run": report.is_dry_run,
        "checkpoints": report.checkpoints,
        "referenced": report.referenced,
        "in_grace": report.in_grace,
        "unknown": unknown.collect::<Vec<_>>(),
        "removed": removed.collect::<Vec<_>>(),
        "chunks": report.chunks,
        "packs": report.packs,
        "compacted": report.compacted,
        "leftovers": report.leftovers,
        "freed_bytes": report.freed_bytes,
        "in_use": report.is_busy,
    })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let would = match report.is_dry_run {
        true => "would remove",
        false => "removed",
    };
    for one in &report.removed {
        let name = one.name.as_deref().unwrap_or("-");
        text += &format!("{would} {name} ({})\n", one.path.display());
    }
    text += &format!(
        "{} checkpoints, {} of them in use, {} kept for the grace time, {} that could not be looked for\n",
        report.checkpoints,
        report.referenced,
        report.in_grace,
        report.unknown.len()
    );
    text += &format!(
        "{would} {} chunks, {} packs and {} leftovers, compacted {}: {} freed\n",
        report.chunks,
        report.packs,
        report.leftovers,
        report.compacted,
        size(report.freed_bytes)
    );
    text
}

fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    for (path, why) in &report.unknown {
        warnings.push(format!(
            "the checkpoint of {} is kept: {why}",
            path.display()
        ));
    }
    if report.is_busy {
        warnings.push(
            "the store is in use by a checkpoint, a restore or another collection; run this again later".to_owned(),
        );
    }
    if report.unknown_packs > 0 {
        warnings.push(format!(
            "{} packs are older than the catalogue, which does not know them; run cedana store check --repair",
            report.unknown_packs
        ));
    }
    for damage in &report.damaged {
        warnings.push(format!("{damage}; run cedana store check --repair"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedana_store::collect::RemovedCheckpoint;

    fn report() -> Report {
        Report {
            checkpoints: 5,
            referenced: 2,
            in_grace: 1,
            unknown: vec![("/mnt/a".into(), "the disk is not mounted".to_owned())],
            removed: vec![RemovedCheckpoint {
                id: None,
                name: Some("db".to_owned()),
                path: "/var/lib/a".into(),
            }],
            chunks: 100,
            packs: 2,
            freed_bytes: 3 << 20,
            ..Report::default()
        }
    }

    #[test]
    fn what_was_removed_and_what_is_kept_is_said() {
        let text = text(&report());
        assert!(text.starts_with("removed db (/var/lib/a)\n"), "{text}");
        assert!(
            text.contains("100 chunks, 2 packs") && text.contains("3.0 MiB freed"),
            "{text}"
        );
        assert_eq!(warnings(&report()).len(), 1);
        let json = json(&report());
        assert_eq!(json["removed"][0]["name"], "db");
        assert_eq!(json["unknown"][0]["reason"], "the disk is not mounted");
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_removed() {
        let report = Report {
            is_dry_run: true,
            is_busy: true,
            unknown_packs: 1,
            damaged: vec!["pack x is damaged".to_owned()],
            ..report()
        };
        assert!(text(&report).starts_with("would remove db"));
        assert_eq!(warnings(&report).len(), 4);
    }
}
