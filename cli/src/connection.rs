//! The connection to the daemon.
//!
//! The socket needs no secret. Over TCP the token is sent, which is found in the daemon's
//! state directory if this user may read it, or in `CEDANA_TOKEN`.

use std::env;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cedana_api::places::{STATE_DIR, TOKEN_FILE};
use cedana_api::v1::checkpoint_service_client::CheckpointServiceClient;
use cedana_api::v1::daemon_service_client::DaemonServiceClient;
use cedana_api::v1::job_service_client::JobServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use crate::error::{Error, Result};

/// The variable with the token.
const TOKEN_VARIABLE: &str = "CEDANA_TOKEN";

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    /// Parses the option `--daemon`.
    ///
    /// # Errors
    /// It is neither a path nor an address.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Socket(path.into()));
        }
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        address.parse().map(Self::Tcp).map_err(|_| {
            Error::Other(format!(
                "--daemon {text}: give the absolute path of the daemon's socket, or an IP address with a port, such as 127.0.0.1:8080"
            ))
        })
    }
}

type Authorized = InterceptedService<Channel, Authorize>;

/// The daemon's services.
pub(crate) struct Daemon {
    channel: Channel,
    authorize: Authorize,
}

impl Daemon {
    /// Connects.
    ///
    /// # Errors
    /// The daemon does not run, or this user may not use it.
    pub(crate) async fn connect(address: &Address) -> Result<Self> {
        match address {
            Address::Socket(path) => Ok(Self {
                channel: over_socket(path).await?,
                authorize: Authorize(None),
            }),
            Address::Tcp(address) => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| Error::other("use the address", error))?;
                let channel = endpoint.connect().await.map_err(|error| Error::NoDaemon {
                    address: address.to_string(),
                    reason: root_cause(&error),
                })?;
                Ok(Self {
                    channel,
                    authorize: Authorize::with_token()?,
                })
            }
        }
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Authorized> {
        JobServiceClient::with_interceptor(self.channel.clone(), self.authorize.clone())
    }

    pub(crate) fn checkpoints(&self) -> CheckpointServiceClient<Authorized> {
        CheckpointServiceClient::with_interceptor(self.channel.clone(), self.authorize.clone())
    }

    pub(crate) fn daemon(&self) -> DaemonServiceClient<Authorized> {
        DaemonServiceClient::with_interceptor(self.channel.clone(), self.authorize.clone())
    }
}

async fn over_socket(path: &Path) -> Result<Channel> {
    // Before tonic, which would wrap the reason.
    let first = UnixStream::connect(path)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => Error::NotAllowed(path.to_owned()),
            _ => Error::NoDaemon {
                address: path.display().to_string(),
                reason: error.to_string(),
            },
        })?;
    let mut first = Some(first);
    let path = path.to_owned();
    let connector = service_fn(move |_: Uri| {
        let (first, path) = (first.take(), path.clone());
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => UnixStream::connect(path).await?,
            };
            io::Result::Ok(TokioIo::new(stream))
        }
    });
    // The name is not looked up.
    let endpoint = Endpoint::from_static("http://cedana");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| Error::other("speak with the daemon", root_cause(&error)))
}

/// Adds the token to requests.
#[derive(Debug, Clone)]
pub(crate) struct Authorize(Option<MetadataValue<Ascii>>);

impl Authorize {
    fn with_token() -> Result<Self> {
        let token = match env::var(TOKEN_VARIABLE) {
            Ok(token) => token,
            Err(_) => {
                let path = Path::new(STATE_DIR).join(TOKEN_FILE);
                match fs::read_to_string(&path) {
                    Ok(token) => token,
                    // The daemon says what is missing.
                    Err(_) => return Ok(Self(None)),
                }
            }
        };
        let value = format!("Bearer {}", token.trim()).parse();
        value
            .map(|value| Self(Some(value)))
            .map_err(|error| Error::other("send the token", error))
    }
}

impl tonic::service::Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_an_ip_address_with_a_port() {
        let parse = |text| Address::parse(text).ok();
        assert_eq!(parse("/x.sock"), Some(Address::Socket("/x.sock".into())));
        assert_eq!(parse("unix:///x"), Some(Address::Socket("/x".into())));
        assert_eq!(
            parse("tcp://[::1]:80"),
            Some(Address::Tcp("[::1]:80".parse().expect("an address")))
        );
        assert_eq!(parse("localhost"), None);
        assert_eq!(parse(""), None);
    }
}
