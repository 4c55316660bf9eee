//! Decides whether a checkpoint's TCP connections are kept or closed.
//!
//! A connection can only be restored in a network that has its own address. CRIU fails
//! if an address is missing, and an engine may have given the container another one.
//! The connections are then closed, as a client expects of a server that has moved. So
//! the checkpoint's sockets are compared with the addresses of the network that it is
//! restored into.
//!
//! Docker up to 26 sets the network up in a hook in the middle of the restore, when
//! CRIU has made the namespaces but no sockets. The addresses are unknown before, so a
//! restore first keeps the connections, and closes them if CRIU misses an address.

use std::net::IpAddr;
use std::path::Path;

use cedana_checkpoint::images::{self, Images, Inet, Protocol, TcpState};
use cedana_config::Tcp;

use crate::network::netns;

/// How connections are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    Keep,
    /// Kept if CRIU finds all their addresses, else closed.
    Try,
    /// The application reads EOF.
    Close,
}

/// The network that the container is restored into.
pub(crate) enum Target<'a> {
    /// This network namespace, with its addresses.
    Namespace(&'a Path),
    /// A namespace that is set up in the middle of the restore.
    Later,
    /// A namespace that CRIU makes. It has only loopback, which is down until the
    /// restore is done, so CRIU can't connect sockets ("Network is unreachable").
    Empty,
}

/// Why a checkpoint's connections can't be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Images(#[from] images::Error),
    #[error("the addresses of the network it is restored into cannot be read: {0}")]
    Addresses(std::io::Error),
    #[error(
        "the checkpoint has {count} established TCP connection(s), such as {example}, and restore.tcp is \"refuse\"; set it to \"auto\", \"keep\" or \"close\""
    )]
    Refused { count: usize, example: String },
}

/// Decides about a checkpoint with these [`connections`].
pub(crate) fn decide(
    setting: Tcp,
    connections: &[Inet],
    target: &Target<'_>,
) -> Result<Connections, Error> {
    let Some(first) = connections.first() else {
        return Ok(Connections::Keep);
    };
    match (setting, target) {
        (Tcp::Keep, _) => Ok(Connections::Keep),
        (Tcp::Close, _) | (Tcp::Auto, Target::Empty) => Ok(Connections::Close),
        (Tcp::Refuse, _) => Err(Error::Refused {
            count: connections.len(),
            example: describe(first),
        }),
        (Tcp::Auto, Target::Later) => Ok(Connections::Try),
        (Tcp::Auto, Target::Namespace(netns_path)) => {
            let available = netns::addresses(netns_path).map_err(Error::Addresses)?;
            Ok(choose(connections, &available))
        }
    }
}

/// The connections in a checkpoint that CRIU restores: those with a peer, which listening
/// and closed sockets don't have (criu/include/sk-inet.h, `tcp_connection`).
pub(crate) fn connections<I: Images + ?Sized>(images: &I) -> Result<Vec<Inet>, Error> {
    let sockets = images::addresses(images)?;
    Ok(sockets
        .into_iter()
        .filter(|inet| {
            inet.protocol == Protocol::Tcp
                && inet.destination.is_some()
                && !matches!(inet.state, Some(TcpState::Close | TcpState::Listen))
        })
        .collect())
}

fn choose(connections: &[Inet], available: &[IpAddr]) -> Connections {
    let is_available = |inet: &Inet| {
        let own = inet.source.ip().to_canonical();
        own.is_loopback()
            || available
                .iter()
                .any(|address| address.to_canonical() == own)
    };
    if connections.iter().all(is_available) {
        Connections::Keep
    } else {
        Connections::Close
    }
}

fn describe(inet: &Inet) -> String {
    let peer = inet.destination.map(|peer| peer.to_string());
    format!("{} to {}", inet.source, peer.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_closed_in_an_empty_network() {
        let local = [inet("127.0.0.1:80")];
        let decided = |setting| decide(setting, &local, &Target::Empty).expect("decided");
        assert_eq!(decided(Tcp::Auto), Connections::Close);
        assert_eq!(decided(Tcp::Keep), Connections::Keep);
        let none = decide(Tcp::Auto, &[], &Target::Empty).expect("decided");
        assert_eq!(none, Connections::Keep);
    }

    fn inet(source: &str) -> Inet {
        Inet {
            protocol: Protocol::Tcp,
            state: Some(TcpState::Established),
            source: source.parse().expect("address"),
            destination: Some("10.0.0.9:5000".parse().expect("address")),
            interface: None,
            receive_queue: None,
            send_queue: None,
        }
    }

    #[test]
    fn connections_are_kept_if_every_address_is_available() {
        let available = ["172.17.0.2", "fd00::2"].map(|ip| ip.parse().expect("address"));
        let choose = |sources: &[&str]| {
            let all: Vec<_> = sources.iter().map(|source| inet(source)).collect();
            super::choose(&all, &available)
        };
        assert_eq!(choose(&[]), Connections::Keep);
        assert_eq!(choose(&["172.17.0.2:80"]), Connections::Keep);
        assert_eq!(choose(&["[::ffff:172.17.0.2]:80"]), Connections::Keep);
        assert_eq!(choose(&["[fd00::2]:80", "[::1]:5"]), Connections::Keep);
        assert_eq!(choose(&["127.0.0.1:80", "127.0.0.5:81"]), Connections::Keep);
        assert_eq!(choose(&["172.17.0.3:80"]), Connections::Close);
        assert_eq!(
            choose(&["172.17.0.2:80", "10.0.0.1:80"]),
            Connections::Close
        );
    }
}
