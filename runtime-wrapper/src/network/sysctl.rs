//! Sets the sysctls of the spec (`linux.sysctl`) that belong to a network namespace.
//!
//! A runtime sets them in the container's init before it executes the program (runc's
//! `writeSystemProperty`), so not in a restore, and CRIU has none of a namespace that it
//! doesn't make. Docker sets `net.ipv4.ip_unprivileged_port_start` and
//! `net.ipv4.ping_group_range` for each container with a network of its own: without the
//! first a server that isn't root can't listen on port 80 again, and without the second
//! CRIU can't restore an ICMP socket. So they are set before CRIU restores. A sysctl of an
//! interface that only the engine's hook makes is set after it.
//!
//! `kernel.*` and `fs.mqueue.*` are the IPC namespace's, which CRIU restores.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::netns;

/// A sysctl of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// As in the spec: `net.core.somaxconn`, or with slashes.
    name: String,
    value: String,
}

/// A sysctl that could not be set.
#[derive(Debug)]
pub(crate) struct Unset {
    pub(crate) sysctl: Sysctl,
    error: io::Error,
}

impl Unset {
    /// Whether there is no such file, yet.
    pub(crate) fn is_missing(&self) -> bool {
        self.error.kind() == ErrorKind::NotFound
    }
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sysctl: Sysctl { name, value },
            error,
        } = self;
        write!(
            f,
            "the sysctl {name} of the spec can't be set to {value}: {error}"
        )
    }
}

impl Sysctl {
    /// The network's of a spec.
    pub(crate) fn of_network(spec: &Value) -> Vec<Self> {
        let all = spec.pointer("/linux/sysctl").and_then(Value::as_object);
        all.into_iter()
            .flatten()
            .filter_map(|(name, value)| {
                let sysctl = Self {
                    name: name.clone(),
                    value: value.as_str()?.to_owned(),
                };
                sysctl.path().map(|_| sysctl)
            })
            .collect()
    }

    /// Its file. The first separator of the name decides, as in sysctl.d(5): an interface
    /// may have the other one in its name. `None` if it isn't the network's.
    fn path(&self) -> Option<PathBuf> {
        let separator = self.name.find(['.', '/'])?;
        let path: String = match &self.name[separator..=separator] {
            "/" => self.name.clone(),
            _ => self
                .name
                .chars()
                .map(|character| match character {
                    '.' => '/',
                    '/' => '.',
                    other => other,
                })
                .collect(),
        };
        let mut parts = path.split('/');
        let is_network = parts.next() == Some("net")
            && parts.all(|part| !part.is_empty() && !matches!(part, "." | ".."));
        is_network.then(|| Path::new("/proc/sys").join(path))
    }
}

/// Sets sysctls in a network namespace, unless it is this process's: no runtime sets them
/// for the host. Returns those that can't be set.
///
/// # Errors
/// The namespace can't be entered.
pub(crate) fn set(namespace: &Path, sysctls: Vec<Sysctl>) -> io::Result<Vec<Unset>> {
    if sysctls.is_empty() || is_ours(namespace)? {
        return Ok(Vec::new());
    }
    netns::within(namespace, || {
        let unset = sysctls.into_iter().filter_map(|sysctl| {
            let path = sysctl.path()?;
            let written = fs::write(path, &sysctl.value);
            written.err().map(|error| Unset { sysctl, error })
        });
        Ok(unset.collect())
    })
}

fn is_ours(namespace: &Path) -> io::Result<bool> {
    let (of, ours) = (fs::metadata(namespace)?, fs::metadata("/proc/self/ns/net")?);
    Ok((of.dev(), of.ino()) == (ours.dev(), ours.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::netns::{Error, Netns};
    use serde_json::json;

    fn sysctl(name: &str, value: &str) -> Sysctl {
        Sysctl {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn only_the_networks_are_taken() {
        let spec = json!({"linux": {"sysctl": {
            "kernel.msgmax": "1",
            "net.core.somaxconn": "256",
            "net": "1",
            "net.": "1",
            "net/../kernel/msgmax": "1",
            "netx.core": "1",
            "net.ipv4.tcp_rmem": "4 5 6",
        }}});
        let taken = [
            sysctl("net.core.somaxconn", "256"),
            sysctl("net.ipv4.tcp_rmem", "4 5 6"),
        ];
        assert_eq!(Sysctl::of_network(&spec), taken);
        assert_eq!(Sysctl::of_network(&json!({})), []);
    }

    #[test]
    fn an_interface_may_have_the_other_separator_in_its_name() {
        let path = Some(PathBuf::from("/proc/sys/net/ipv4/conf/eno2.100/forwarding"));
        for name in [
            "net.ipv4.conf.eno2/100.forwarding",
            "net/ipv4/conf/eno2.100/forwarding",
        ] {
            assert_eq!(sysctl(name, "1").path(), path);
        }
    }

    #[test]
    fn they_are_the_namespaces_and_never_the_hosts() {
        let namespace = match Netns::create() {
            Ok(namespace) => namespace,
            Err(Error::Unshare(error)) if error.raw_os_error() == Some(1) => return,
            Err(error) => panic!("{error}"),
        };
        let host = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("the host's");
        let sysctls = vec![
            sysctl("net.core.somaxconn", "77"),
            sysctl("net.ipv4.conf.nowhere.forwarding", "1"),
        ];
        let unset = set(namespace.path(), sysctls.clone()).expect("entered");
        assert!(unset.len() == 1 && unset[0].is_missing(), "{unset:?}");
        let read = || fs::read_to_string("/proc/sys/net/core/somaxconn");
        let within = netns::within(namespace.path(), read).expect("read");
        assert_eq!(within.trim(), "77");
        let ours = set(Path::new("/proc/self/ns/net"), sysctls).expect("not entered");
        assert!(ours.is_empty());
        let now = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("the host's");
        assert_eq!(now, host);
    }
}
