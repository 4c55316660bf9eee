//! The snapshot below a container's writable layer: that of its image.
//!
//! containerd names the snapshot of an image by the digests of its layers (the chain ID of
//! the OCI image specification, config.md).

use serde::Deserialize;

use super::api::Descriptor;
use super::client::Client;
use super::content::{self, digest};
use super::index::{DOCKER_INDEX, INDEX, Index, Platform};
use crate::checkpoints::{Failure, Kind};

/// What is read of a manifest.
#[derive(Deserialize)]
struct Manifest {
    config: super::index::Part,
}

/// What is read of an image's configuration.
#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The name of the snapshot that an image was unpacked to.
pub(super) async fn of_image(
    client: &Client,
    name: &str,
    target: &Descriptor,
) -> Result<String, Failure> {
    let manifest = manifest(client, name, target).await?;
    let manifest: Manifest = json(client, name, &manifest).await?;
    let config: Configuration = json(client, name, &manifest.config.descriptor()).await?;
    match chain(&config.rootfs.diff_ids) {
        Some(chain) => Ok(chain),
        None => Err(unusable(name, "it has no layers")),
    }
}

/// The manifest for this machine.
async fn manifest(client: &Client, name: &str, target: &Descriptor) -> Result<Descriptor, Failure> {
    if ![INDEX, DOCKER_INDEX].contains(&target.media_type.as_str()) {
        return Ok(target.clone());
    }
    let index: Index = json(client, name, target).await?;
    let own = Platform::own();
    // A manifest without a platform is for all.
    let mut fitting = index.manifests.iter().filter(|part| {
        part.is_image()
            && part
                .platform
                .as_ref()
                .is_none_or(|platform| *platform == own)
    });
    match fitting.next() {
        Some(part) => Ok(part.descriptor()),
        None => Err(unusable(name, "it is for another kind of machine")),
    }
}

async fn json<T: for<'a> Deserialize<'a>>(
    client: &Client,
    name: &str,
    of: &Descriptor,
) -> Result<T, Failure> {
    let data = content::read(client, of).await?;
    serde_json::from_slice(&data)
        .map_err(|error| unusable(name, &format!("{}: {error}", of.digest)))
}

fn unusable(name: &str, why: &str) -> Failure {
    Failure::new(Kind::Invalid, format!("image {name} can't be used: {why}"))
}

/// The chain ID of layers, from the lowest.
fn chain(layers: &[String]) -> Option<String> {
    let join = |below: String, layer: &String| digest(format!("{below} {layer}").as_bytes());
    let (first, rest) = layers.split_first()?;
    Some(rest.iter().fold(first.clone(), join))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_hashes_each_layer_with_those_below_it() {
        let layers = ["sha256:a", "sha256:b", "sha256:c"].map(str::to_owned);
        assert_eq!(chain(&[]), None);
        assert_eq!(chain(&layers[..1]), Some("sha256:a".to_owned()));
        let two = digest(b"sha256:a sha256:b");
        assert_eq!(chain(&layers[..2]), Some(two.clone()));
        let three = digest(format!("{two} sha256:c").as_bytes());
        assert_eq!(chain(&layers), Some(three));
    }
}
