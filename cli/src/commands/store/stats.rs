//! `cedana store stats`.

use cedana_store::stats::{Stats, stats};
use serde_json::{Value, json};

use super::{failed, json_line, open};
use crate::error::Result;
use crate::output::table::Table;
use crate::output::to_stdout;
use crate::output::units::size;

/// Shows what the store holds.
///
/// # Errors
/// It can't be read.
pub(super) fn run(settings: &cedana_config::Store, as_json: bool) -> Result<()> {
    let stats = stats(&open(settings)?).map_err(failed)?;
    to_stdout(match as_json {
        true => json_line(&json(settings, &stats)),
        false => text(settings, &stats),
    });
    Ok(())
}

fn json(settings: &cedana_config::Store, stats: &Stats) -> Value {
    json!({
        "path": settings.path,
        "exists": true,
        "checkpoints": stats.checkpoints,
        "raw_bytes": stats.raw_bytes,
        "unique_bytes": stats.unique_bytes,
        "stored_bytes": stats.stored_bytes,
        "unused_bytes": stats.dead_bytes,
        "ratio": stats.ratio(),
        "packs": stats.packs,
        "pack_bytes": stats.pack_bytes,
        "chunks": stats.chunks,
        "lost_chunks": stats.lost_chunks,
        "quota_bytes": (settings.quota != 0).then_some(settings.quota),
        "free_bytes": stats.free_bytes,
    })
}

fn text(settings: &cedana_config::Store, stats: &Stats) -> String {
    let mut table = Table::new(&["STORE", &settings.path.display().to_string()]);
    let mut line = |name: &str, value: String| table.push(vec![name.to_owned(), value]);
    line("checkpoints", stats.checkpoints.to_string());
    line("their memory", size(stats.raw_bytes));
    line("without what they share", size(stats.unique_bytes));
    line("as stored", size(stats.stored_bytes));
    if let Some(ratio) = stats.ratio() {
        line("ratio", format!("{ratio:.1}"));
    }
    line(
        "unused",
        format!("{}, removed by cedana store gc", size(stats.dead_bytes)),
    );
    line(
        "packs",
        format!("{}, {}", stats.packs, size(stats.pack_bytes)),
    );
    if stats.lost_chunks > 0 {
        let lost = stats.lost_chunks;
        line(
            "lost chunks",
            format!("{lost}; cedana store check names their checkpoints"),
        );
    }
    line(
        "quota",
        match settings.quota {
            0 => "none".to_owned(),
            quota => size(quota),
        },
    );
    line("free on the disk", size(stats.free_bytes));
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_the_figures() {
        let settings = cedana_config::Store {
            quota: 10 << 30,
            ..cedana_config::Store::default()
        };
        let stats = Stats {
            checkpoints: 3,
            raw_bytes: 3 << 30,
            unique_bytes: 1 << 30,
            stored_bytes: 1 << 28,
            lost_chunks: 2,
            ..Stats::default()
        };
        let text = text(&settings, &stats);
        for part in [
            "/var/lib/cedana/store",
            "3.0 GiB",
            "12.0",
            "10.0 GiB",
            "lost chunks",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = json(&settings, &stats);
        assert_eq!(json["quota_bytes"], 10_u64 << 30);
        assert_eq!(json["ratio"], 12.0);
    }
}
