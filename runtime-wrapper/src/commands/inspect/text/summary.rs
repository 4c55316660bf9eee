//! The lines above the tables: origin, sizes and cost of a checkpoint.

use std::fmt::Write;
use std::path::Path;

use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::Network;
use cedana_checkpoint::inspect::Inspection;
use time::OffsetDateTime;

use super::cells::stored;
use crate::output::printable::printable;
use crate::output::timestamp;
use crate::output::units::{bytes, duration};

pub(super) fn summary(text: &mut String, dir: &Path, found: &Inspection) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("Checkpoint", printable(&dir.display().to_string()));
    if let Some(manifest) = &found.manifest {
        let image = manifest.container.image.as_deref();
        let of = image
            .map(|image| format!(" of {image}"))
            .unwrap_or_default();
        line(
            "Container",
            printable(&format!("{}{of}", manifest.container.id)),
        );
        line("Taken", printable(&taken(manifest)));
    } else {
        line(
            "Taken",
            "by a stock runtime: there is no manifest".to_owned(),
        );
    }
    let kernel = found.manifest.as_ref().map(|manifest| {
        let machine = &manifest.machine;
        format!(
            ", Linux {}, {} CPU features",
            machine.kernel,
            machine.cpu_features.len()
        )
    });
    line(
        "Machine",
        printable(&format!("{}{}", found.machine, kernel.unwrap_or_default())),
    );
    let sizes = &found.sizes;
    line(
        "Size",
        format!(
            "{} files, {}{}",
            sizes.files,
            bytes(sizes.raw_bytes),
            stored(sizes.raw_bytes, sizes.stored_bytes)
        ),
    );
    line(
        "Memory",
        format!(
            "{}{}",
            bytes(sizes.memory_raw_bytes),
            stored(sizes.memory_raw_bytes, sizes.memory_stored_bytes)
        ),
    );
    if let Some(store) = &found.store {
        line(
            "Store",
            format!(
                "{} chunks, {}, of checkpoint {}",
                store.chunks,
                bytes(store.stored_bytes),
                printable(&store.id)
            ),
        );
    }
    if let Some(dump) = &found.dump {
        line(
            "Dump",
            format!(
                "frozen {} after {} of freezing; memory taken in {}, written in {}, {} pages",
                duration(dump.frozen_us.into()),
                duration(dump.freezing_us.into()),
                duration(dump.memory_dump_us.into()),
                duration(dump.memory_write_us.into()),
                dump.pages_written
            ),
        );
    }
    if let Some(manifest) = &found.manifest {
        let cost = &manifest.cost;
        let frozen = cost
            .frozen_us
            .map(|frozen| format!("frozen {}, ", duration(frozen)));
        line(
            "Cost",
            format!(
                "{}CRIU {}, in all {}",
                frozen.unwrap_or_default(),
                duration(cost.dump_us),
                duration(cost.total_us)
            ),
        );
    }
    let network = match found.network {
        Network::External => "external: a restore is given a namespace",
        Network::Own => "its own: in the checkpoint, a restore makes it anew",
        Network::Host => "the host's",
    };
    line("Network", network.to_owned());
}

fn taken(manifest: &Manifest) -> String {
    let versions = &manifest.versions;
    let at = i64::try_from(manifest.created)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map(|at| format!("{}, ", timestamp::readable(at)));
    format!(
        "{}cedana {}, {}, CRIU {}",
        at.unwrap_or_default(),
        versions.cedana,
        versions.runtime,
        versions.criu
    )
}
