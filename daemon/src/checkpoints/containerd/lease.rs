//! A lease: until it is deleted, containerd's garbage collection keeps what was made
//! under it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::process;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::api::leases::{CreateRequest, DeleteRequest, ListResourcesRequest};
use super::client::{Client, refused};
use crate::checkpoints::{Failure, Kind};

/// How long a lease lasts if the daemon is killed. containerd's client has the same.
const EXPIRES: Duration = Duration::days(1);

/// A lease, to be deleted by [`Lease::delete`].
pub(super) struct Lease {
    id: String,
}

impl Lease {
    /// Makes a lease.
    pub(super) async fn create(client: &Client) -> Result<Self, Failure> {
        let expires = (OffsetDateTime::now_utc() + EXPIRES).format(&Rfc3339);
        let expires = expires.map_err(|error| {
            Failure::new(Kind::System, format!("could not write the time: {error}"))
        })?;
        let request = CreateRequest {
            id: format!("cedana-{}", unique()),
            labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expires)]),
        };
        let answer = client.leases().create(request).await;
        let answer = answer.map_err(refused("could not make a lease"))?;
        let id = answer.into_inner().lease.unwrap_or_default().id;
        Ok(Self { id })
    }

    /// One that another daemon has made.
    pub(super) fn named(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    /// Its name, unique on this machine.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The digests of the content that it keeps.
    pub(super) async fn content(&self, client: &Client) -> Result<Vec<String>, Failure> {
        let request = ListResourcesRequest {
            id: self.id.clone(),
        };
        let answer = client.leases().list_resources(request).await;
        let answer = answer.map_err(refused("could not read the lease"))?;
        let resources = answer.into_inner().resources.into_iter();
        let content = resources.filter(|resource| resource.r#type == "content");
        Ok(content.map(|resource| resource.id).collect())
    }

    /// Deletes it. With `sync`, what only it has kept is collected on return.
    pub(super) async fn delete(self, client: &Client, sync: bool) {
        let request = DeleteRequest {
            id: self.id.clone(),
            sync,
        };
        if let Err(status) = client.leases().delete(request).await
            && status.code() != tonic::Code::NotFound
        {
            log::warn!(
                "lease {} of containerd remains until tomorrow: {}",
                self.id,
                status.message()
            );
        }
    }
}

/// A number that no other lease of this machine has: the process ID, and a random one.
fn unique() -> String {
    let random = RandomState::new().hash_one(process::id());
    format!("{}-{random:016x}", process::id())
}
