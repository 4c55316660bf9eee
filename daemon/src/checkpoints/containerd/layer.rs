//! A container's writable layer: what differs between its snapshot and that of its image.

use super::api::containers::Container as Record;
use super::api::diff::DiffRequest;
use super::api::snapshots::{
    MountsRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use super::api::{Descriptor, Mount};
use super::client::{Client, refused};
use super::index;
use crate::checkpoints::{Failure, Kind};

/// A writable layer that can be stored. [`Layer::done`] removes what that needs.
pub(super) struct Layer<'a> {
    client: &'a Client,
    record: &'a Record,
    /// A view of the image's snapshot.
    view: String,
    lower: Vec<Mount>,
    /// The name of the content while containerd writes it.
    reference: String,
}

impl<'a> Layer<'a> {
    /// Prepares to store a layer. A lease gives its name, which is unique.
    pub(super) async fn of(
        client: &'a Client,
        record: &'a Record,
        lease: &str,
    ) -> Result<Self, Failure> {
        let what = || format!("could not read the layers of container {}", record.id);
        let stat = StatSnapshotRequest {
            snapshotter: record.snapshotter.clone(),
            key: record.snapshot_key.clone(),
        };
        let info = client.snapshots().stat(stat).await;
        let info = info.map_err(refused(what()))?.into_inner().info;
        let view = format!("{lease}-parent");
        let request = ViewSnapshotRequest {
            snapshotter: record.snapshotter.clone(),
            key: view.clone(),
            parent: info.unwrap_or_default().parent,
        };
        let lower = client.snapshots().view(request).await;
        Ok(Self {
            client,
            record,
            view,
            lower: lower.map_err(refused(what()))?.into_inner().mounts,
            reference: format!("{lease}-layer"),
        })
    }

    /// Stores it.
    pub(super) async fn store(&self) -> Result<Descriptor, Failure> {
        let what = || {
            format!(
                "could not store the writable layer of container {}",
                self.record.id
            )
        };
        let request = MountsRequest {
            snapshotter: self.record.snapshotter.clone(),
            key: self.record.snapshot_key.clone(),
        };
        let upper = self.client.snapshots().mounts(request).await;
        let request = DiffRequest {
            left: self.lower.clone(),
            right: upper.map_err(refused(what()))?.into_inner().mounts,
            media_type: index::LAYER.to_owned(),
            r#ref: self.reference.clone(),
        };
        let answer = self.client.diff().diff(request).await;
        let layer = answer.map_err(refused(what()))?.into_inner().diff;
        layer.ok_or_else(|| Failure::new(Kind::System, what()))
    }

    /// Removes the view.
    pub(super) async fn done(self) {
        let request = RemoveSnapshotRequest {
            snapshotter: self.record.snapshotter.clone(),
            key: self.view.clone(),
        };
        if let Err(status) = self.client.snapshots().remove(request).await {
            // It belongs to the lease, so containerd collects it later.
            log::warn!("snapshot {}: {}", self.view, status.message());
        }
    }
}
