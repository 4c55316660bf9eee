//! `restore`: the wrapped runtime's, prepared and judged.
//!
//! ```text
//! settings, bundle ─► look (CRIU? images whole? mounts there?) ─► network namespace
//!     ─► runtime restore ─► bundle as it was ─► is init still there?
//!     ─► on failure: log kept and explained
//! ```
//!
//! The checkpoint itself is only read: a restore can be tried again.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};

use cedana_checkpoint::criu::Cause;
use cedana_checkpoint::image::{self, Network};
use cedana_config::Config;
use tempfile::TempDir;

use crate::bundle::Bundle;
use crate::child::{self, Keep, Signals};
use crate::cli::Request;
use crate::criu::{self, Log};
use crate::error::{Error, LogNote};
use crate::images;
use crate::netns::{self, Netns};
use crate::report::Reporter;
use crate::runtime::Runtime;
use crate::settle;
use crate::state::Container;
use crate::sys;

/// Brings a checkpoint back.
pub(crate) fn run(request: &Request, reporter: &Reporter) -> Result<ExitCode, Error> {
    let signals = Signals::block().map_err(Error::Signals)?;
    let id = || request.id.clone();
    let config = Config::load()?;
    let runtime = Runtime::find(&config.runtime)?;
    let in_bundle = |source| Error::Bundle { id: id(), source };
    let bundle = request.value("bundle").filter(|path| !path.is_empty());
    let bundle = Bundle::open(bundle.map_or(Path::new("."), Path::new)).map_err(in_bundle)?;
    let annotations = bundle.annotations();
    let config = config.with_annotations(
        annotations
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )?;
    criu::check(request)?;
    let images = request.image_path();
    images::put_back(&images).map_err(|source| Error::ImageDir {
        verb: request.verb,
        id: id(),
        dir: images.clone(),
        source,
    })?;
    image::verify(&images).map_err(|source| Error::Images { id: id(), source })?;
    bundle.check_mounts().map_err(in_bundle)?;

    let network = image::network(&images);
    let netns = fresh_netns(request, &bundle, network, reporter)?;
    let lent = match &netns {
        Some(netns) => Some(bundle.lend_netns(netns.path()).map_err(in_bundle)?),
        None => None,
    };

    let work = work_dir(request)?;
    let log = Log::before(work.path(request).join("restore.log"));
    let mut args = request.with_flags(&flags(&config, &work));
    // crun never becomes a subreaper and knows no flag against it, which every
    // caller gives that detaches (containerd's shim, Docker).
    if request.has("no-subreaper") && runtime.is_crun() {
        args.retain(|arg| arg != "--no-subreaper" && arg != "-no-subreaper");
    }
    let outcome = child::run(&signals, runtime.command(&args), Keep::Stdio).map_err(|source| {
        Error::Spawn {
            program: runtime.program.clone(),
            source,
        }
    })?;
    drop(lent);

    // In the foreground the runtime ends with the container, and its exit code
    // is the container's; only CRIU's log tells whether it began.
    let detached = request.has("detach");
    if !outcome.status.success() && (detached || !log.says("Restore finished successfully")) {
        return Err(log.failure(request, &config, &outcome));
    }
    if detached {
        let settled = settle_down(
            request,
            &config,
            &runtime,
            netns.is_some(),
            network,
            reporter,
        );
        // Success is not reported, so nothing may run: the caller would not
        // look after it.
        if settled.is_err() {
            remove(request, &runtime);
        }
        settled?;
    }
    Ok(exit_code(outcome.status))
}

/// The namespace to lend to the bundle, if it has none and the checkpoint needs
/// one.
fn fresh_netns(
    request: &Request,
    bundle: &Bundle,
    network: Network,
    reporter: &Reporter,
) -> Result<Option<Netns>, Error> {
    match network {
        Network::External if !bundle.has_netns() => Err(Error::Failed {
            verb: request.verb,
            id: request.id.clone(),
            images: request.image_path().into(),
            why: Cause::MissingNetns.to_string().into(),
            log: LogNote::None,
        }),
        Network::External if bundle.wants_netns() => {
            Netns::create().map(Some).map_err(|source| Error::Netns {
                id: request.id.clone(),
                source,
            })
        }
        Network::Own if bundle.has_netns() && !bundle.wants_netns() => {
            reporter.quiet_warning(&format!(
                "container {}: the checkpoint brings a network namespace of its own, so the one in the bundle is not used; take the checkpoint with cedana-runc to use it",
                request.id
            ));
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Where CRIU works when the caller does not say: not in the checkpoint, which
/// must stay as it is and may be read-only.
enum WorkDir {
    Given,
    Ours(TempDir, String),
}

impl WorkDir {
    fn path(&self, request: &Request) -> PathBuf {
        match self {
            Self::Given => request.work_path(),
            Self::Ours(dir, _) => dir.path().to_owned(),
        }
    }
}

fn work_dir(request: &Request) -> Result<WorkDir, Error> {
    // With lazy pages the caller's own daemon waits at a socket in that place.
    if request.value("work-path").is_some() || request.has("lazy-pages") {
        return Ok(WorkDir::Given);
    }
    let dir = tempfile::Builder::new()
        .prefix("cedana-restore-")
        .tempdir()
        .map_err(Error::CriuConfig)?;
    let flag = format!("--work-path={}", dir.path().display());
    Ok(WorkDir::Ours(dir, flag))
}

fn flags<'a>(config: &Config, work: &'a WorkDir) -> Vec<&'a str> {
    // Locks and outside sockets that the checkpoint holds were allowed when it
    // was taken; a restore that refused them would only make it useless.
    let mut flags = vec!["--file-locks", "--ext-unix-sk"];
    if config.restore.tcp_established {
        flags.push("--tcp-established");
    }
    if let WorkDir::Ours(_, flag) = work {
        flags.push(flag);
    }
    flags
}

/// What is to be done once the restored container runs on its own.
fn settle_down(
    request: &Request,
    config: &Config,
    runtime: &Runtime,
    lent: bool,
    network: Network,
    reporter: &Reporter,
) -> Result<(), Error> {
    let container = Container::find(request, runtime)?;
    if lent {
        container.forget_netns_path()?;
    } else if network == Network::Own {
        // CRIU makes such a namespace anew and leaves loopback down.
        if let Err(error) = netns::loopback_up_in(container.init) {
            reporter.quiet_warning(&error);
        }
    }
    let from_file = request
        .value("pid-file")
        .map(Path::new)
        .and_then(settle::pid_of);
    let pid = from_file.unwrap_or(container.init);
    let Some(how) = settle::watch(pid, config.restore.settle) else {
        return Ok(());
    };
    Err(Error::Died {
        id: request.id.clone(),
        pid,
        how,
    })
}

/// Removes a container that was restored in vain, as the runtime does with one
/// whose restore fails, so that its ID can be used again.
fn remove(request: &Request, runtime: &Runtime) {
    let mut args: Vec<OsString> = request.before.clone();
    args.extend(["delete", "--force", &request.id].map(Into::into));
    // What can't be deleted is the caller's to clean up, who learns of the
    // failure anyway.
    let mut command = runtime.command(&args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::tie_to_parent(&mut command);
    let _ = command.status();
}

/// The runtime's exit code, or a shell's for a runtime that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
