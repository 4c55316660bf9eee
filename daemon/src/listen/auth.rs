//! Finds the caller of each request before a service sees it.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Status};

use super::connection::Peer;
use super::token::Token;
use crate::caller::Caller;

/// Puts the caller into the request, or refuses it.
#[derive(Clone)]
pub(crate) struct Auth {
    token: Arc<Token>,
}

impl Auth {
    pub(crate) fn new(token: Token) -> Self {
        Self {
            token: Arc::new(token),
        }
    }

    /// # Errors
    /// UNAUTHENTICATED without the token, PERMISSION_DENIED to a caller that is confined.
    pub(crate) fn check(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let extensions = request.extensions();
        let caller = if let Some(Peer(caller)) = extensions.get::<Peer>() {
            let refused = |reason: &Arc<str>| {
                Status::permission_denied(format!("the daemon refuses this caller: {reason}"))
            };
            caller.clone().map_err(|reason| refused(&reason))?
        } else if extensions.get::<TlsConnectInfo<TcpConnectInfo>>().is_some() {
            // The handshake fails without a certificate of the client.
            Arc::new(root()?)
        } else {
            self.check_token(request.metadata())?;
            Arc::new(root()?)
        };
        request.extensions_mut().insert(caller);
        Ok(request)
    }

    fn check_token(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let sent = metadata
            .get("authorization")
            .map(|value| value.as_bytes())
            .and_then(|value| value.strip_prefix(b"Bearer "));
        match sent {
            Some(sent) if self.token.is(sent) => Ok(()),
            None => Err(Status::unauthenticated(
                "over TCP the daemon needs its token: send the metadata \"authorization: Bearer TOKEN\" with the content of /var/lib/cedana/token, which root can read, or use the socket /run/cedana/cedana.sock",
            )),
            Some(_) => Err(Status::unauthenticated(
                "this is not the daemon's token; root finds it in /var/lib/cedana/token",
            )),
        }
    }
}

/// The caller that [`Auth`] has found.
///
/// # Errors
/// UNAUTHENTICATED if no [`Auth`] saw the request.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    request
        .extensions()
        .get::<Arc<Caller>>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("the caller is unknown"))
}

fn root() -> Result<Caller, Status> {
    Caller::root().map_err(|error| Status::internal(error.to_string()))
}
