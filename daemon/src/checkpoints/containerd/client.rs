//! A connection to containerd, in one namespace.

use std::fmt::Display;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::Container;
use super::api::{containers, content, diff, images, leases, namespaces, snapshots, tasks};
use crate::checkpoints::{Failure, Kind};

/// containerd's own limit of a message. A container's record has its whole spec.
const MESSAGE: usize = 16 << 20;

/// A service of containerd, in a namespace.
pub(super) type Service = InterceptedService<Channel, Metadata>;

/// What each call says beside its message: containerd's `pkg/namespaces` and
/// `core/leases` read these headers.
#[derive(Clone)]
pub(super) struct Metadata {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// containerd's services.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    metadata: Metadata,
}

impl Client {
    /// Connects to the containerd of a container.
    ///
    /// # Errors
    /// containerd does not answer.
    pub(super) async fn of(container: &Container) -> Result<Self, Failure> {
        let metadata = Metadata {
            namespace: namespace(&container.namespace)?,
            lease: None,
        };
        let channel = connect(&container.address).await?;
        Ok(Self { channel, metadata })
    }

    /// The same in another namespace.
    pub(super) fn in_namespace(&self, name: &str) -> Result<Self, Failure> {
        let metadata = Metadata {
            namespace: namespace(name)?,
            lease: None,
        };
        Ok(Self {
            metadata,
            ..self.clone()
        })
    }

    /// The same. What it makes belongs to a lease.
    pub(super) fn with_lease(&self, lease: &str) -> Result<Self, Failure> {
        let value = MetadataValue::try_from(lease)
            .map_err(|_| Failure::new(Kind::System, format!("containerd's lease is {lease:?}")))?;
        let mut client = self.clone();
        client.metadata.lease = Some(value);
        Ok(client)
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.metadata.clone())
    }

    pub(super) fn containers(&self) -> containers::containers_client::ContainersClient<Service> {
        let client = containers::containers_client::ContainersClient::new(self.service());
        client.max_decoding_message_size(MESSAGE)
    }

    pub(super) fn content(&self) -> content::content_client::ContentClient<Service> {
        let client = content::content_client::ContentClient::new(self.service());
        client.max_decoding_message_size(MESSAGE)
    }

    pub(super) fn diff(&self) -> diff::diff_client::DiffClient<Service> {
        diff::diff_client::DiffClient::new(self.service())
    }

    pub(super) fn images(&self) -> images::images_client::ImagesClient<Service> {
        images::images_client::ImagesClient::new(self.service())
    }

    pub(super) fn leases(&self) -> leases::leases_client::LeasesClient<Service> {
        leases::leases_client::LeasesClient::new(self.service())
    }

    pub(super) fn namespaces(&self) -> namespaces::namespaces_client::NamespacesClient<Service> {
        namespaces::namespaces_client::NamespacesClient::new(self.service())
    }

    pub(super) fn snapshots(&self) -> snapshots::snapshots_client::SnapshotsClient<Service> {
        snapshots::snapshots_client::SnapshotsClient::new(self.service())
    }

    pub(super) fn tasks(&self) -> tasks::tasks_client::TasksClient<Service> {
        let client = tasks::tasks_client::TasksClient::new(self.service());
        client.max_decoding_message_size(MESSAGE)
    }
}

fn namespace(name: &str) -> Result<MetadataValue<Ascii>, Failure> {
    MetadataValue::try_from(name)
        .map_err(|_| Failure::new(Kind::Invalid, format!("{name:?} is no namespace's name")))
}

async fn connect(address: &Path) -> Result<Channel, Failure> {
    let path = address.to_owned();
    // The connector has the address. tonic requires some URI.
    let endpoint = Endpoint::from_static("http://containerd");
    let connector = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            Failure::new(
                Kind::State,
                format!(
                    "containerd does not answer at {}: {}; start it, or give its socket with --containerd-address",
                    address.display(),
                    root_cause(&error),
                ),
            )
        })
}

/// The innermost reason; tonic's own is "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// containerd's refusal, with what was to be done.
pub(super) fn refused(what: impl Display) -> impl FnOnce(Status) -> Failure {
    move |status| {
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::AlreadyExists => Kind::Exists,
            Code::FailedPrecondition => Kind::State,
            Code::InvalidArgument => Kind::Invalid,
            Code::ResourceExhausted => Kind::Full,
            _ => Kind::System,
        };
        Failure::new(kind, format!("{what}: containerd: {}", said(&status)))
    }
}

/// containerd's text. A lost connection has none of its own. containerd 1.7 appends the
/// name of the code.
fn said(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => root_cause(source),
        None => {
            let text = status.message().trim();
            text.strip_suffix(": unknown").unwrap_or(text).to_owned()
        }
    }
}
