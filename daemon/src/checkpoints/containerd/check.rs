//! What is known of a container before a checkpoint, without freezing it.

use std::fs;

use cedana_config::Config;

use super::client::Client;
use super::{Container, find, settings, task};
use crate::checkpoints::{Checked, Failure};

/// containerd's own runtime.
const STOCK: &str = "io.containerd.runc.v2";

pub(super) async fn check(container: &Container, config: &Config) -> Result<Checked, Failure> {
    let client = Client::of(container).await?;
    let record = find::record(&client, container).await?;
    let mut checked = Checked::default();
    match find::running(&client, container).await {
        Ok(task) if task.is_paused() => checked.warnings.push(format!(
            "container {} is frozen, and stays so",
            container.id
        )),
        Ok(_) => {}
        Err(failure) => checked.obstacles.push(failure.text),
    }
    if checked.obstacles.is_empty() {
        let pids = task::pids(&client, &container.id).await?;
        checked.processes = u32::try_from(pids.len()).unwrap_or(u32::MAX);
        let sum = move || pids.into_iter().map(memory).sum();
        // The kernel walks the memory of each process, which takes long if that is much.
        // A thread that panicked leaves the sum unknown.
        checked.memory = tokio::task::spawn_blocking(sum).await.unwrap_or_default();
    }
    if let Err(failure) = super::dump::image_of(&client, &record).await {
        checked.obstacles.push(failure.text);
    }
    let runtime = record.runtime.unwrap_or_default().name;
    checked
        .warnings
        .extend(settings::not_for_the_dump(config, &runtime)?);
    if runtime == STOCK {
        checked.warnings.push(format!(
            "the runtime is {runtime}: its checkpoints are not compressed, and CRIU's limits are those of runc; `ctr run --runtime io.containerd.cedana.v2` has those of cedana"
        ));
    } else if !settings::is_cedana(&runtime) {
        checked.warnings.push(format!(
            "the runtime is {runtime}, which may have no checkpoints"
        ));
    }
    Ok(checked)
}

/// A process's share of memory, in bytes; 0 if it has just ended.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
