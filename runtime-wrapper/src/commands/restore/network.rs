//! The network of one restore: its namespace, its connections, and their lock.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use cedana_checkpoint::criu::Cause;
use cedana_checkpoint::format::contents::{self, Contents};
use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::images::{self, Inet, Network};
use cedana_checkpoint::opened::OpenedDir;
use cedana_checkpoint::view::with_descriptors;
use cedana_config::{Config, Tcp};

use super::Context;
use super::invocation::TCP_CLOSE;
use crate::commands::error::Error;
use crate::criu::Failure;
use crate::network::netns::Netns;
use crate::network::network_lock::NetworkLock;
use crate::network::sysctl::{self, Sysctl};
use crate::network::tcp::{self, Connections, Target};
use crate::oci::bundle::Bundle;

/// The network that the container is restored into.
pub(super) struct RestoredNetwork {
    /// Whether the checkpoint brings a namespace of its own.
    pub(super) kind: Network,
    /// The namespace for a bundle that lacks one.
    pub(super) netns: Option<NetnsSource>,
    pub(super) connections: Connections,
    pub(super) lock: Option<NetworkLock>,
    /// Those that can be set only when the container runs: of interfaces that a hook makes,
    /// and of a namespace that CRIU makes.
    pub(super) sysctls: Vec<Sysctl>,
}

/// A network namespace for a bundle that has none.
pub(super) enum NetnsSource {
    /// The caller's, which may have interfaces, addresses and routes.
    Given(PathBuf),
    /// A new one.
    New(Netns),
}

impl NetnsSource {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::New(netns) => netns.path(),
        }
    }
}

impl RestoredNetwork {
    pub(super) fn prepare(
        context: &Context<'_>,
        config: &Config,
        bundle: &Bundle,
        images: &Contents,
    ) -> Result<Self, Error> {
        let kind = images::network(images);
        let netns = netns(context, bundle, kind)?;
        let path = netns.as_ref().map(NetnsSource::path);
        let established = established(context, config, images)?;
        let connections = match context.request.has(TCP_CLOSE) {
            true => Connections::Close,
            false => tcp::decide(
                config.restore.tcp,
                &established,
                &target(bundle, kind, path),
            )
            .map_err(|source| refused(context, source))?,
        };
        let sysctls = Sysctl::of_network(bundle.spec());
        let sysctls = match kind {
            Network::Host => Vec::new(),
            Network::Own => sysctls,
            Network::External => set_sysctls(context, path.unwrap_or(bundle.netns_path()), sysctls),
        };
        let kept = matches!(connections, Connections::Keep | Connections::Try);
        let lock = match kind {
            Network::External if kept => {
                NetworkLock::begin(path.unwrap_or(bundle.netns_path()), &established)
                    .map_err(|error| {
                        context
                            .reporter
                            .quiet_warning(&format!("connections may be lost: {error}"));
                    })
                    .ok()
            }
            _ => None,
        };
        Ok(Self {
            kind,
            netns,
            connections,
            lock,
            sysctls,
        })
    }
}

/// Sets sysctls before the restore, and returns those that don't exist yet.
fn set_sysctls(context: &Context<'_>, netns: &Path, sysctls: Vec<Sysctl>) -> Vec<Sysctl> {
    let warn = |warning: &dyn Display| context.reporter.quiet_warning(warning);
    let unset = sysctl::set(netns, sysctls).unwrap_or_else(|error| {
        warn(&format!("the sysctls of the spec can't be set: {error}"));
        Vec::new()
    });
    let later = unset
        .into_iter()
        .filter_map(|unset| match unset.is_missing() {
            true => Some(unset.sysctl),
            false => {
                warn(&unset);
                None
            }
        });
    later.collect()
}

/// Locks the connections of a checkpoint in the network namespace that it will be
/// restored into, which has no addresses yet. `None` if that fails: the restore
/// tries it again and reports why. As a restore, it reads only files that the manifest
/// lists, and compares their digests.
pub(crate) fn lock_network(images: &Path, netns: &Path) -> Option<NetworkLock> {
    let opened = OpenedDir::open_any(images).ok()?;
    let manifest = Manifest::read(&opened).ok()?;
    let store = Config::load().ok()?.store.path;
    let contents = with_descriptors(|| match &manifest {
        Some(manifest) => contents::open(&opened, manifest, &store),
        None => contents::stock(&opened, &store),
    });
    let established = tcp::connections(&contents.ok()?).ok()?;
    NetworkLock::begin(netns, &established).ok()
}

/// The checkpoint's established connections.
fn established(
    context: &Context<'_>,
    config: &Config,
    images: &Contents,
) -> Result<Vec<Inet>, Error> {
    match tcp::connections(images) {
        // CRIU may understand the image.
        Err(tcp::Error::Images(error @ images::Error::Unknown { .. }))
            if config.restore.tcp != Tcp::Refuse =>
        {
            context.reporter.remark(&format!(
                "container {}: its connections are left to CRIU: {error}",
                context.request.id
            ));
            Ok(Vec::new())
        }
        connections => connections.map_err(|source| refused(context, source)),
    }
}

fn refused(context: &Context<'_>, source: tcp::Error) -> Error {
    Error::Connections {
        id: context.request.id.clone(),
        source,
    }
}

/// The namespace for the bundle, if it has none and the checkpoint needs one.
fn netns(
    context: &Context<'_>,
    bundle: &Bundle,
    network: Network,
) -> Result<Option<NetnsSource>, Error> {
    let request = context.request;
    match network {
        Network::External if !bundle.has_netns() => {
            let failure = Failure::without_log(Cause::MissingNetns.to_string());
            Err(Error::failed(request, failure))
        }
        Network::External if bundle.wants_netns() => match request.value("netns") {
            Some(path) => Ok(Some(NetnsSource::Given(path.into()))),
            None => Netns::create()
                .map(|netns| Some(NetnsSource::New(netns)))
                .map_err(|source| Error::Netns {
                    id: request.id.clone(),
                    source,
                }),
        },
        Network::Own if bundle.has_netns() && !bundle.wants_netns() => {
            context.reporter.quiet_warning(&format!(
                "container {}: the checkpoint brings a network namespace of its own, so the one in the bundle is not used; take the checkpoint with cedana-runc to use it",
                request.id
            ));
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The network whose addresses decide about connections.
fn target<'a>(bundle: &'a Bundle, network: Network, netns: Option<&'a Path>) -> Target<'a> {
    match network {
        Network::Own => Target::Empty,
        Network::Host => Target::Namespace(Path::new("/proc/self/ns/net")),
        Network::External => match netns {
            Some(_) if bundle.has_hooks() => Target::Later,
            Some(netns) => Target::Namespace(netns),
            None => Target::Namespace(bundle.netns_path()),
        },
    }
}
