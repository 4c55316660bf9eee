//! Where the daemon listens.
//!
//! ```text
//! unix socket      root and the group cedana; the kernel names the caller
//! loopback TCP     with the token, as root
//! any other TCP    with mutual TLS, as root; without certificates the daemon refuses
//! ```

pub(crate) mod auth;
pub(crate) mod connection;
pub(crate) mod lock;
pub(crate) mod socket;
pub(crate) mod token;

use std::fs;
use std::net::SocketAddr;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::error::Error;
use crate::options::TlsFiles;

/// Whether clients on this address must use TLS.
///
/// # Errors
/// The address can be reached from other machines, and there are no certificates.
pub(crate) fn tls(
    address: SocketAddr,
    files: Option<&TlsFiles>,
) -> Result<Option<ServerTlsConfig>, Error> {
    let Some(files) = files else {
        return match address.ip().is_loopback() {
            true => Ok(None),
            false => Err(Error::NoTls(address)),
        };
    };
    let read = |path| fs::read(path).map_err(Error::file("read", path));
    let identity = Identity::from_pem(read(&files.certificate)?, read(&files.key)?);
    let authority = Certificate::from_pem(read(&files.client_ca)?);
    Ok(Some(
        ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(authority),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_needs_no_certificates() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(tls(address.parse().expect("an address"), None).is_ok());
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let refused = tls(address.parse().expect("an address"), None);
            assert!(matches!(refused, Err(Error::NoTls(_))), "{address}");
        }
    }
}
