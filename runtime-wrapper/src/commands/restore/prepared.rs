//! A restore that can begin: everything that the runtime and CRIU need is there.

use std::ffi::OsStr;
use std::path::Path;

use cedana_checkpoint::criu::Version;
use cedana_checkpoint::criu::config::ExternalMount;
use cedana_checkpoint::format::contents::Contents;
use cedana_checkpoint::format::manifest::{self, Manifest};
use cedana_checkpoint::fuse::Root;
use cedana_checkpoint::inspect::external_mounts;
use cedana_checkpoint::view::{self, ImagesView, Needs, Subject};
use cedana_config::{Accept, Config, Mode};

use super::Context;
use super::afterwards::Afterwards;
use super::invocation::WorkDir;
use super::network::{NetnsSource, RestoredNetwork};
use super::precheck;
use crate::commands::error::Error;
use crate::criu::{self, config_annotation};
use crate::lazy;
use crate::network::network_lock::NetworkLock;
use crate::network::tcp::Connections;
use crate::oci::bundle::{Bundle, ReplacedConfig};

/// A restore before it has succeeded.
pub(super) struct Prepared<'a> {
    pub(super) context: &'a Context<'a>,
    /// The node's settings and the bundle's annotations.
    pub(super) config: Config,
    pub(super) criu: Version,
    /// Mounts below recursive bind mounts, which the runtime doesn't know.
    pub(super) mounts: Vec<ExternalMount>,
    pub(super) connections: Connections,
    pub(super) work: WorkDir,
    /// Whether the runtime is given a network namespace that the bundle lacks.
    pub(super) replaces_netns: bool,
    /// What is set when the container runs.
    pub(super) after: Afterwards,
    held: Option<Held>,
    pub(super) bundle: Bundle,
}

/// Resources that are needed only while the runtime restores. Released in this order.
struct Held {
    /// Segments of restored connections are dropped.
    _network_lock: Option<NetworkLock>,
    /// config.json as this restore needs it.
    _config: Option<ReplacedConfig>,
    _netns: Option<NetnsSource>,
    /// The directory that CRIU reads.
    view: ImagesView,
}

impl<'a> Prepared<'a> {
    /// Reads the bundle, verifies the checkpoint, and prepares network,
    /// config.json and the directory that CRIU reads.
    pub(super) fn new(context: &'a Context<'a>) -> Result<Self, Error> {
        let request = context.request;
        let id = || request.id.clone();
        let in_bundle = |source| Error::Bundle { id: id(), source };
        let bundle = Bundle::open(&request.bundle).map_err(in_bundle)?;
        let config = context.config.clone().with_annotations(
            bundle
                .annotations()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            |exceeded| context.reporter.quiet_warning(exceeded),
        )?;
        let allowed = config.criu.config_annotation;
        config_annotation::check(&bundle.annotations(), allowed)
            .map_err(|source| Error::config_annotation(request, source))?;
        let criu = criu::check(request)?;
        refuse_stock_only(context)?;
        let view = view_of(context, &config, &bundle)?;
        context.check_interrupted()?;
        if view.is_stock() {
            remark_stock(context, config.restore.mode);
        }
        bundle.check_mounts().map_err(in_bundle)?;
        let mounts = bundle
            .nested_mounts(external_mounts(view.images()))
            .map_err(in_bundle)?;
        let seen = view.path();
        precheck::run(
            context,
            &config,
            &bundle,
            &mounts,
            seen.as_deref().unwrap_or(&request.images),
        )?;
        context.check_interrupted()?;
        let RestoredNetwork {
            kind,
            netns,
            connections,
            lock,
            sysctls,
        } = RestoredNetwork::prepare(context, &config, &bundle, view.images())?;
        context.check_interrupted()?;
        let after = Afterwards::new(context, bundle.spec(), view.images(), (kind, sysctls));
        let lent = bundle
            .replace_config(netns.as_ref().map(NetnsSource::path))
            .map_err(in_bundle)?;
        Ok(Self {
            context,
            work: WorkDir::new(request)?,
            config,
            criu,
            mounts,
            connections,
            replaces_netns: netns.is_some(),
            after,
            held: Some(Held {
                _network_lock: lock,
                _config: lent,
                _netns: netns,
                view,
            }),
            bundle,
        })
    }

    /// Restores eagerly from now on.
    pub(super) fn see_all_memory(&mut self) -> Result<(), Error> {
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        let context = self.context;
        let needs = needs(context, &self.config, &self.bundle);
        let warn = |message: &str| context.reporter.quiet_warning(&message);
        let served = held.view.serve_all(&needs, warn);
        served.map_err(|source| in_view(context, source))
    }

    /// Says why the container gets its memory before it runs.
    pub(super) fn remark_eager(&self, why: &str) {
        remark_eager(self.context, why);
    }

    /// The directory to restore from. `None` after [`Self::release`].
    pub(super) fn view(&self) -> Option<&ImagesView> {
        self.held.as_ref().map(|held| &held.view)
    }

    /// The container runs: gives up what exists for the restore alone.
    pub(super) fn release(&mut self) {
        self.held = None;
    }
}

/// Says that a checkpoint has no manifest: a stock runtime took it, it was unpacked, or
/// its manifest was removed.
fn remark_stock(context: &Context<'_>, mode: Mode) {
    match mode {
        Mode::Lazy => remark_eager(
            context,
            "a stock runtime took its checkpoint, or one that was unpacked, so nothing could be verified page by page",
        ),
        Mode::Eager => context.reporter.remark(&format!(
            "container {}: its checkpoint has no manifest, so nothing could be verified",
            context.request.id
        )),
    }
}

fn remark_eager(context: &Context<'_>, why: &str) {
    context.reporter.remark(&format!(
        "container {} gets all of its memory before it runs: {why}",
        context.request.id
    ));
}

/// The flag that needs the page files as CRIU wrote them: with `lazy-pages` a page daemon
/// of the caller reads them where they are, and `auto-dedup` writes to them.
fn shares_files(context: &Context<'_>) -> Option<&'static str> {
    ["lazy-pages", "auto-dedup"]
        .into_iter()
        .find(|flag| context.request.has(flag))
}

/// Refuses such a flag for a checkpoint of ours.
fn refuse_stock_only(context: &Context<'_>) -> Result<(), Error> {
    let images = &context.request.images;
    match shares_files(context) {
        Some(flag) if images.is_file() || images.join(manifest::NAME).exists() => {
            Err(Error::StockOnly {
                id: context.request.id.clone(),
                flag,
                dir: images.to_path_buf(),
            })
        }
        _ => Ok(()),
    }
}

/// The directory that CRIU reads, lazily if nothing speaks against it.
fn view_of(context: &Context<'_>, config: &Config, bundle: &Bundle) -> Result<ImagesView, Error> {
    let images = &context.request.images;
    let is_lazy = |manifest: &Manifest, images: &Contents| {
        may_be_lazy(context, config, bundle, manifest, images).unwrap_or_else(|why| {
            remark_eager(context, &why);
            false
        })
    };
    let warn = |message: &str| context.reporter.quiet_warning(&message);
    let needs = needs(context, config, bundle);
    ImagesView::new(images, &needs, is_lazy, warn).map_err(|source| in_view(context, source))
}

fn needs(context: &Context<'_>, config: &Config, bundle: &Bundle) -> Needs {
    Needs {
        subject: Subject::Container,
        memory: config.restore.memory,
        root: bundle.root(),
        shares_files: shares_files(context).is_some(),
        store: config.store.path.clone(),
        accept: match config.restore.accept {
            Accept::Any => view::Accept::Any,
            Accept::Ours => view::Accept::Ours,
            Accept::Signed => view::Accept::Signed,
        },
    }
}

fn in_view(context: &Context<'_>, source: view::Error) -> Error {
    Error::ImagesView {
        id: context.request.id.clone(),
        source,
    }
}

/// Whether the restore is lazy, or the reason why it can't be.
fn may_be_lazy(
    context: &Context<'_>,
    config: &Config,
    bundle: &Bundle,
    manifest: &Manifest,
    images: &Contents,
) -> Result<bool, String> {
    let limit = bundle.memory_limit();
    let wanted = lazy::wanted(config, &context.runtime, manifest, images, limit)?;
    match wanted && bundle.root() != Root(0) {
        true => lazy::in_user_namespace(),
        false => Ok(wanted),
    }
}

/// The caller's socket for the container's terminal.
pub(super) fn console_socket<'a>(context: &Context<'a>) -> Option<&'a Path> {
    let path: Option<&OsStr> = context.request.value("console-socket");
    path.filter(|path| !path.is_empty()).map(Path::new)
}
