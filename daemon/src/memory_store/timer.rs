//! The daemon's collections.

use std::time::Duration;

use cedana_config::Config;
use cedana_store::collect::Report;

/// How often the settings are read again while collections are off.
const OFF: Duration = Duration::from_secs(600);

/// Collects regularly, as long as the daemon runs. A failure is logged once until it
/// changes: it disturbs nothing else.
pub(crate) async fn run() {
    let mut last_failure = None;
    loop {
        let period = match Config::load() {
            Ok(config) if !config.store.gc_interval.is_zero() => config.store.gc_interval,
            _ => OFF,
        };
        tokio::time::sleep(period).await;
        let failure = once().await.err();
        if let Some(text) = failure
            .as_ref()
            .filter(|text| last_failure.as_ref() != Some(*text))
        {
            log::warn!("the store was not collected: {text}");
        }
        last_failure = failure;
    }
}

/// Collects once, if the settings say so and there is a store.
async fn once() -> Result<(), String> {
    let config = Config::load().map_err(|error| error.to_string())?;
    if config.store.gc_interval.is_zero() || !config.store.path.exists() {
        return Ok(());
    }
    let report = super::collect(&config.store, false).await;
    let report = report.map_err(|error| error.to_string())?;
    if report.has_removed() {
        log::info!("{}", text(&report));
    }
    match report.damaged.first() {
        Some(damage) => Err(format!("{damage}; run cedana store check --repair")),
        None => Ok(()),
    }
}

/// What a collection removed, in a line.
fn text(report: &Report) -> String {
    format!(
        "the store was collected: {} checkpoints, {} chunks, {} packs and {} leftovers removed, {} packs compacted, {} MiB freed",
        report.removed.len(),
        report.chunks,
        report.packs,
        report.leftovers,
        report.compacted,
        report.freed_bytes >> 20
    )
}
