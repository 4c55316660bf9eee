//! The index of a checkpoint: an OCI image index whose manifests are the checkpoint's
//! parts. The names are those of containerd's `core/images/mediatypes.go` and
//! `client/container.go`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::api::Descriptor;

/// The media type of an index.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's name of the same.
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// An image for one platform.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's name of the same.
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// CRIU's images.
pub(super) const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The container's spec.
pub(super) const SPEC: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// The options of the checkpoint.
pub(super) const OPTIONS: &str = "application/vnd.containerd.container.checkpoint.options.v1+proto";
/// The options of the runtime.
pub(super) const RUNTIME_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.runtime.options+proto";
/// The writable layer.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The annotation with the container's image.
const IMAGE_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the container's runtime.
const RUNTIME_NAME: &str = "io.containerd.checkpoint.runtime";
/// The annotation with the container's snapshotter.
const SNAPSHOTTER: &str = "io.containerd.checkpoint.snapshotter";
/// The annotation with the container's ID, which containerd's client does not write.
const CONTAINER: &str = "io.cedana.container";

/// An index, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) manifests: Vec<Part>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A descriptor, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) size: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// What an image, or a checkpoint, is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
}

impl Platform {
    /// This machine's, in Go's words.
    pub(super) fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
        }
    }
}

impl Part {
    /// A part that can be used on this machine alone.
    pub(super) fn for_this_machine(descriptor: Descriptor) -> Self {
        Self {
            platform: Some(Platform::own()),
            ..Self::from(descriptor)
        }
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: self.annotations.clone().into_iter().collect(),
        }
    }

    /// Whether it is an image, for one platform or several.
    pub(super) fn is_image(&self) -> bool {
        [INDEX, DOCKER_INDEX, MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }
}

impl From<Descriptor> for Part {
    fn from(descriptor: Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: descriptor.annotations.into_iter().collect(),
            platform: None,
        }
    }
}

/// What a checkpoint says about its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) image: String,
    pub(super) runtime: String,
    pub(super) snapshotter: String,
    /// `None` in a checkpoint by `ctr`.
    pub(super) container: Option<String>,
}

impl Index {
    /// The index of a checkpoint.
    pub(super) fn of(origin: Origin, manifests: Vec<Part>) -> Self {
        let annotations = [
            (IMAGE_NAME, Some(origin.image)),
            (RUNTIME_NAME, Some(origin.runtime)),
            (SNAPSHOTTER, Some(origin.snapshotter)),
            (CONTAINER, origin.container),
        ];
        let annotations = annotations
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self {
            schema_version: 2,
            manifests,
            annotations: annotations.collect(),
        }
    }

    /// What it says about the container; `None` if it is not a container's checkpoint.
    pub(super) fn origin(&self) -> Option<Origin> {
        let get = |name: &str| self.annotations.get(name).filter(|text| !text.is_empty());
        Some(Origin {
            image: get(IMAGE_NAME)?.clone(),
            runtime: get(RUNTIME_NAME)?.clone(),
            snapshotter: get(SNAPSHOTTER)?.clone(),
            container: get(CONTAINER).cloned(),
        })
    }

    /// The first part of this type.
    pub(super) fn part(&self, media_type: &str) -> Option<&Part> {
        let mut parts = self.manifests.iter();
        parts.find(|part| part.media_type == media_type)
    }

    /// The labels by which containerd's garbage collection keeps the parts.
    pub(super) fn labels(&self) -> impl Iterator<Item = (String, String)> {
        let parts = self.manifests.iter().enumerate();
        parts.map(|(n, part)| {
            let label = format!("containerd.io/gc.ref.content.{n}");
            (label, part.digest.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_is_written() {
        let origin = Origin {
            image: "docker.io/library/busybox:latest".into(),
            runtime: "io.containerd.cedana.v2".into(),
            snapshotter: "overlayfs".into(),
            container: Some("test".into()),
        };
        let part = Part::for_this_machine(Descriptor {
            media_type: SPEC.into(),
            digest: "sha256:1".into(),
            size: 7,
            ..Default::default()
        });
        let index = Index::of(origin.clone(), vec![part]);
        let text = serde_json::to_string(&index).expect("JSON");
        assert!(
            text.starts_with(r#"{"schemaVersion":2,"manifests":[{"mediaType":"#),
            "{text}"
        );
        let read: Index = serde_json::from_str(&text).expect("an index");
        assert_eq!(read, index);
        assert_eq!(read.origin(), Some(origin));
        assert!(read.part(CHECKPOINT).is_none());
        let labels: Vec<_> = read.labels().collect();
        assert_eq!(
            labels,
            [("containerd.io/gc.ref.content.0".into(), "sha256:1".into())]
        );
    }

    #[test]
    fn an_ordinary_image_is_no_checkpoint() {
        let index: Index =
            serde_json::from_str(r#"{"schemaVersion":2,"manifests":[]}"#).expect("an index");
        assert_eq!(index.origin(), None);
    }
}
