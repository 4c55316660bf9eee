//! The checkpoints in containerd's content, whose memory is in the node's store.
//!
//! A checkpoint of `ctr` is an image, but Docker's has no image while it is packed and
//! unpacked, so all content is looked at, each once: content never changes, and the store's
//! catalogue remembers what was found. An image's layer is told from a checkpoint by its
//! first headers: containerd packs a checkpoint's directory without the name of the
//! directory, and with regular files only.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use cedana_store::catalogue::{Blobs, CheckpointId};
use serde::Deserialize;

use super::Container;
use super::api::content::ListContentRequest;
use super::api::namespaces::ListNamespacesRequest;
use super::client::{Client, refused};
use super::content::read_part;
use super::tar::{self, BLOCK};
use crate::checkpoints::Failure;

/// The largest manifest that is read.
const MANIFEST: i64 = 16 << 20;
/// How many headers are read at most. `cedana-manifest.json` is among the first names.
const HEADERS: usize = 64;
/// The name of the manifest.
const NAME: &str = "cedana-manifest.json";

/// What is read of a manifest.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    store: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    id: String,
}

/// The checkpoints in the content of all namespaces of a containerd. `known` are the
/// contents that were looked at before; those that exist are added to `blobs`.
///
/// # Errors
/// containerd does not answer, or content can't be read.
pub(crate) async fn stored(
    address: &Path,
    known: &Blobs,
    blobs: &mut Blobs,
) -> Result<HashSet<CheckpointId>, Failure> {
    let anywhere = Container {
        id: String::new(),
        namespace: "default".to_owned(),
        address: address.to_owned(),
    };
    let client = Client::of(&anywhere).await?;
    let answer = client.namespaces().list(ListNamespacesRequest {}).await;
    let answer = answer.map_err(refused("could not list the namespaces"))?;
    let mut found = HashSet::new();
    for namespace in answer.into_inner().namespaces {
        let client = client.in_namespace(&namespace.name)?;
        for (digest, size) in list(&client).await? {
            let id = match known.get(&digest).or_else(|| blobs.get(&digest)) {
                Some(id) => id.clone(),
                None => match id(&client, &digest, size).await {
                    Ok(id) => id,
                    // containerd has collected it meanwhile.
                    Err(failure) if failure.kind == crate::checkpoints::Kind::NotFound => continue,
                    Err(failure) => return Err(failure),
                },
            };
            found.extend(id.clone());
            blobs.insert(digest, id);
        }
    }
    Ok(found)
}

/// The digests of all content, with the sizes.
async fn list(client: &Client) -> Result<HashMap<String, i64>, Failure> {
    let what = || "could not list containerd's content".to_owned();
    let request = ListContentRequest {
        filters: Vec::new(),
    };
    let answer = client.content().list(request).await;
    let mut parts = answer.map_err(refused(what()))?.into_inner();
    let mut listed = HashMap::new();
    while let Some(part) = parts.message().await.map_err(refused(what()))? {
        listed.extend(part.info.into_iter().map(|info| (info.digest, info.size)));
    }
    Ok(listed)
}

/// The ID of the checkpoint in a content; `None` if it is none, or holds its memory.
async fn id(client: &Client, digest: &str, size: i64) -> Result<Option<CheckpointId>, Failure> {
    let mut offset = 0;
    for _ in 0..HEADERS {
        if offset > size - BLOCK {
            break;
        }
        let header = read_part(client, digest, offset, BLOCK).await?;
        let Some(entry) = tar::entry(&header) else {
            break;
        };
        offset += BLOCK;
        if entry.name == NAME && entry.size <= MANIFEST {
            let text = read_part(client, digest, offset, entry.size).await?;
            return Ok(id_of(&text));
        }
        // A checkpoint's tar begins with its directory at most.
        if entry.name.contains('/') {
            break;
        }
        offset = offset.saturating_add(tar::padded(entry.size));
    }
    Ok(None)
}

/// The ID in a manifest's text.
fn id_of(manifest: &[u8]) -> Option<CheckpointId> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    CheckpointId::parse(&manifest.store?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_the_checkpoint_or_none() {
        let id = "0123456789abcdef0123456789abcdef";
        let text = format!(r#"{{"format": 3, "files": [], "store": {{"id": "{id}"}}}}"#);
        assert_eq!(id_of(text.as_bytes()), CheckpointId::parse(id));
        assert_eq!(id_of(br#"{"format": 2}"#), None);
        assert_eq!(id_of(br#"{"store": {"id": "../../x"}}"#), None);
        assert_eq!(id_of(b"no manifest"), None);
    }
}
