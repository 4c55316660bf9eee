//! What becomes of the TCP connections in a checkpoint.
//!
//! A connection can only come back where its own address is. CRIU fails where
//! one is missing, and an engine may well have given the container another:
//! closing them is then what a client expects of a server that has moved. So the
//! checkpoint's sockets are compared with the addresses of the network that it
//! is restored into.
//!
//! Docker up to 26 sets the network up from a hook that runs in the middle of
//! the restore, when CRIU has made the namespaces and no socket yet. Nothing can
//! be compared before, so keeping is tried, and closing if CRIU misses an
//! address.

use std::net::IpAddr;
use std::path::Path;

use cedana_checkpoint::images::{self, Inet, Protocol, SocketKind, TcpState};
use cedana_config::Tcp;

/// How connections are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// As they are.
    Keep,
    /// As they are if all their addresses turn out to be there.
    Try,
    /// Closed: the application reads their end.
    Close,
}

/// Where the container is restored into, as far as it is known.
pub(crate) enum Target<'a> {
    /// This network namespace, set up.
    Namespace(&'a Path),
    /// One that is set up in the middle of the restore.
    Later,
    /// One that CRIU makes anew. It holds loopback alone, which is down until the
    /// restore is done, so CRIU can't connect anything ("Network is unreachable").
    Empty,
}

/// A checkpoint whose connections must not be restored.
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

/// Decides for a checkpoint with these [`connections`].
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
        (Tcp::Auto, Target::Namespace(netns)) => {
            let there = crate::network::netns::addresses(netns).map_err(Error::Addresses)?;
            Ok(choose(connections, &there))
        }
    }
}

/// The connections in a checkpoint that CRIU restores: those with a peer, listening and closed
/// sockets having none (criu/include/sk-inet.h, `tcp_connection`).
pub(crate) fn connections(images: &Path) -> Result<Vec<Inet>, Error> {
    let sockets = images::sockets(images)?;
    Ok(sockets
        .into_iter()
        .filter_map(|socket| match socket.kind {
            SocketKind::Inet(inet) => Some(inet),
            _ => None,
        })
        .filter(|inet| {
            inet.protocol == Protocol::Tcp
                && inet.destination.is_some()
                && !matches!(inet.state, Some(TcpState::Close | TcpState::Listen))
        })
        .collect())
}

fn choose(connections: &[Inet], there: &[IpAddr]) -> Connections {
    let is_there = |inet: &Inet| {
        let own = inet.source.ip().to_canonical();
        own.is_loopback() || there.iter().any(|address| address.to_canonical() == own)
    };
    if connections.iter().all(is_there) {
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
    fn nothing_is_connected_in_an_empty_network() {
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
    fn kept_where_every_address_is_there() {
        let there = ["172.17.0.2", "fd00::2"].map(|ip| ip.parse().expect("address"));
        let choose = |sources: &[&str]| {
            let all: Vec<_> = sources.iter().map(|source| inet(source)).collect();
            super::choose(&all, &there)
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
