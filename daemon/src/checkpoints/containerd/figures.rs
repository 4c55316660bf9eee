//! What a checkpoint holds, from the tar that containerd made of it.
//!
//! Headers are read one by one, without the data between them. The manifest that
//! `cedana-runc` writes has the figures. A checkpoint by another runtime has none: there
//! the page files of CRIU are counted.

use serde::Deserialize;

use super::api::Descriptor;
use super::client::Client;
use super::content::read_part;
use super::tar::{self, BLOCK};
use crate::checkpoints::Failure;

/// The largest manifest that is read. One of ten thousand files is smaller.
const MANIFEST: i64 = 4 << 20;
/// How many headers are read at most. Each process has about ten files.
const HEADERS: usize = 4096;
/// The name of the manifest.
const NAME: &str = "cedana-manifest.json";

/// Bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Figures {
    #[serde(rename = "raw_bytes")]
    pub(super) raw: u64,
    #[serde(rename = "stored_bytes")]
    pub(super) stored: u64,
}

/// What is read of a manifest.
#[derive(Deserialize)]
struct Manifest {
    cost: Figures,
}

/// The figures of a checkpoint; 0 where they are unknown.
pub(super) async fn of(client: &Client, checkpoint: &Descriptor) -> Figures {
    match read(client, checkpoint).await {
        Ok(figures) => figures,
        Err(failure) => {
            log::warn!("the size of a checkpoint is unknown: {failure}");
            Figures::default()
        }
    }
}

async fn read(client: &Client, checkpoint: &Descriptor) -> Result<Figures, Failure> {
    let mut counted = Figures::default();
    let mut offset = 0;
    for _ in 0..HEADERS {
        if offset > checkpoint.size - BLOCK {
            break;
        }
        let header = read_part(client, &checkpoint.digest, offset, BLOCK).await?;
        let Some(entry) = tar::entry(&header) else {
            break;
        };
        offset += BLOCK;
        if entry.name == NAME && entry.size <= MANIFEST {
            let data = read_part(client, &checkpoint.digest, offset, entry.size).await?;
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&data) {
                return Ok(manifest.cost);
            }
        }
        if entry.name.starts_with("pages-") && entry.name.ends_with(".img") {
            let size = entry.size.cast_unsigned();
            counted.raw = counted.raw.saturating_add(size);
            counted.stored = counted.stored.saturating_add(size);
        }
        offset = offset.saturating_add(tar::padded(entry.size));
    }
    Ok(counted)
}
