//! What a checkpoint holds, from the tar that containerd made of it.
//!
//! Headers are read one by one, without the data between them. The manifest that
//! `cedana-runc` writes has the figures. A checkpoint by another runtime has none: there
//! the page files of CRIU are counted.

use serde::Deserialize;

use super::api::Descriptor;
use super::client::Client;
use super::content::read_part;
use crate::checkpoints::Failure;

/// The unit of a tar.
const BLOCK: i64 = 512;
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

/// A file in a tar.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    size: i64,
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
        let Some(entry) = entry(&header) else { break };
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
        let padding = (BLOCK - entry.size % BLOCK) % BLOCK;
        offset = offset.saturating_add(entry.size).saturating_add(padding);
    }
    Ok(counted)
}

/// The entry of a header; `None` at the tar's end.
fn entry(header: &[u8]) -> Option<Entry> {
    let text = |range: std::ops::Range<usize>| {
        let bytes = header.get(range)?;
        let end = bytes.iter().position(|byte| *byte == 0);
        str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
    };
    let name = text(0..100)?;
    // A size of 8 GiB and more is a number, with the highest bit set.
    let size = match header.get(124..136)? {
        [0x80, rest @ ..] => {
            let bytes = rest.last_chunk::<8>()?;
            i64::from_be_bytes(*bytes)
        }
        _ => i64::from_str_radix(text(124..136)?.trim(), 8).ok()?,
    };
    (!name.is_empty() && size >= 0).then(|| Entry {
        name: name.trim_start_matches("./").to_owned(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..124 + size.len()].copy_from_slice(size);
        header
    }

    #[test]
    fn an_entry_has_an_octal_or_a_binary_size() {
        let of = |name: &str, size| {
            Some(Entry {
                name: name.to_owned(),
                size,
            })
        };
        assert_eq!(entry(&header("a", b"00000000017\0")), of("a", 15));
        let large = [0x80, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
        assert_eq!(entry(&header("./b", &large)), of("b", 16 << 30));
        assert_eq!(entry(&[0; 512]), None);
        assert_eq!(entry(b"short"), None);
        assert_eq!(entry(&header("c", b"9")), None);
    }

    #[test]
    fn a_negative_size_ends_the_list() {
        let mut size = [0xff; 12];
        size[0] = 0x80;
        assert_eq!(entry(&header("a", &size)), None);
    }
}
