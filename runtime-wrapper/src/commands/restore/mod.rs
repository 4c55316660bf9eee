//! `restore`: the wrapped runtime's, prepared and judged.
//!
//! ```text
//! settings, bundle ─► look (CRIU? images whole? mounts there?) ─► images shown
//!     ─► network namespace
//!     ─► runtime restore ─► bundle as it was ─► is init still there?
//!     ─► a lazy one that failed before the container ran: again, eagerly
//!     ─► on failure: log kept and explained
//! ```
//!
//! The checkpoint itself is only read: a restore can be tried again.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use cedana_checkpoint::criu::{Cause, RestoreOptions};
use cedana_checkpoint::format::manifest;
use cedana_checkpoint::format::manifest::Manifest;
use cedana_checkpoint::fuse::Root;
use cedana_checkpoint::images::{self, Network};
use cedana_checkpoint::inspect::external_mounts;
use cedana_config::{Config, Mode, Tcp};
use tempfile::TempDir;

use crate::cli::Request;
use crate::commands::error::Error;
use crate::criu::images_view::ImagesView;
use crate::criu::{self, ConfigFile, Failure, Log};
use crate::host::child::{self, Keep, Next, Outcome, Question, Signals};
use crate::host::liveness;
use crate::host::sys;
use crate::lazy::{self, Session};
use crate::network::netns::{self, Netns};
use crate::network::network_lock::NetworkLock;
use crate::network::tcp::{self, Connections, Target};
use crate::oci::bundle::Bundle;
use crate::oci::console::Console;
use crate::oci::runtime::{Runtime, unmount_leftover_root};
use crate::oci::state::Container;
use crate::output::report::Reporter;

/// A flag of crun's that Podman passes to every runtime (`restore --tcp-close`).
/// For runc, which has none, CRIU's option goes into its configuration.
const TCP_CLOSE: &str = "tcp-close";

/// Brings a checkpoint back.
pub(crate) fn run(request: &Request, reporter: &Reporter) -> Result<ExitCode, Error> {
    let begun = Instant::now();
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
    refuse_stock_only(request, &images)?;
    let eager = |why: &str| {
        reporter.remark(&format!(
            "container {} gets all of its memory before it runs: {why}",
            request.id
        ));
    };
    let lazily = |manifest: &Manifest| {
        let limit = bundle.memory_limit();
        let wanted = lazy::wanted(&config, &runtime, manifest, &images, limit);
        let wanted = wanted.and_then(|wanted| match wanted && bundle.root() != Root(0) {
            true => lazy::in_user_namespace(),
            false => Ok(wanted),
        });
        wanted.unwrap_or_else(|why| {
            eager(&why);
            false
        })
    };
    let show = |lazily: &dyn Fn(&Manifest) -> bool| {
        let tell = |message: &str| reporter.quiet_warning(&message);
        ImagesView::new(&images, config.restore.memory, bundle.root(), lazily, tell)
            .map_err(|source| Error::ImagesView { id: id(), source })
    };
    let mut shown = show(&lazily)?;
    if shown.is_stock() && config.restore.mode == Mode::Lazy {
        eager(
            "a stock runtime took its checkpoint, or one that was unpacked, so nothing could be verified page by page",
        );
    }
    bundle.check_mounts().map_err(in_bundle)?;
    let mounts = bundle
        .nested_mounts(external_mounts(&images))
        .map_err(in_bundle)?;

    let network = images::network(&images);
    let netns = netns_to_lend(request, &bundle, network, reporter)?;
    let netns = netns.as_ref().map(Lend::path);
    let refused = |source| Error::Connections { id: id(), source };
    let open = match tcp::connections(&images) {
        // CRIU may still know what to do with it.
        Err(tcp::Error::Images(error @ images::Error::Unknown { .. }))
            if config.restore.tcp != Tcp::Refuse =>
        {
            reporter.remark(&format!(
                "container {}: its connections are left to CRIU: {error}",
                request.id
            ));
            Vec::new()
        }
        open => open.map_err(refused)?,
    };
    let target = target(&bundle, network, netns);
    let mut connections = match request.has(TCP_CLOSE) {
        true => Connections::Close,
        false => tcp::decide(config.restore.tcp, &open, &target).map_err(refused)?,
    };
    let network_lock = match (connections, network) {
        (Connections::Keep | Connections::Try, Network::External) => {
            NetworkLock::begin(netns.unwrap_or(bundle.netns_path()), &open)
                .map_err(|error| {
                    reporter.quiet_warning(&format!("connections may be lost: {error}"));
                })
                .ok()
        }
        _ => None,
    };
    let lent = bundle.replace_config(netns).map_err(in_bundle)?;

    let work = work_dir(request)?;
    let find = || Container::find(request, &runtime).ok();
    let (outcome, log, mut session) = loop {
        let mut session = None;
        if shown.is_lazy() {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            let settings = lazy::Settings {
                id: &request.id,
                images: &images,
                bundle: bundle.path(),
                threads: config.restore.prefetch_cores.of(cores),
                oom_score_adj: bundle.oom_score_adj(),
                begun,
                reporter,
            };
            match Session::start(&settings, &work.path(request)) {
                Ok(started) => session = Some(started),
                Err(error) => {
                    eager(&format!("no page source can be started: {error}"));
                    shown = show(&|_| false)?;
                }
            }
        }
        let caller = request
            .value("console-socket")
            .filter(|path| !path.is_empty());
        // A lazy attempt may be followed by an eager one, and one that tries to keep
        // connections by one that closes them.
        let may_be_repeated = session.is_some() || connections == Connections::Try;
        let console = match caller.filter(|_| may_be_repeated) {
            Some(_) => Some(Console::listen(&work.path(request)).map_err(Error::Console)?),
            None => None,
        };
        let mut command = command(
            request,
            &runtime,
            &work,
            shown.path().as_deref(),
            RestoreOptions {
                tcp_close: connections == Connections::Close,
                external_mounts: mounts.clone(),
            },
            session.is_some(),
            console.as_ref().map(Console::path).as_deref(),
        )?;
        if bundle.would_unmount_host_mounts() {
            sys::unshare_mounts(&mut command.command);
        }
        let asked = session
            .as_ref()
            .and_then(|session| session.descriptor().ok());
        let mut answer = |asked: bool| match &mut session {
            Some(session) if asked => session.hear(find),
            _ => Next::Done,
        };
        let question = asked.as_ref().map(|asked| Question {
            asked: asked.as_fd(),
            answer: &mut answer,
        });
        let log = Log::before(work.path(request).join("restore.log"));
        let outcome = child::run_and_answer(&signals, command.command, Keep::Stdio, question)
            .map_err(|source| Error::Spawn {
                program: runtime.program.clone(),
                source,
            })?;
        if outcome.status.success() || outcome.signalled || has_run(&log, session.as_mut()) {
            if let (Some(console), Some(caller)) = (console, caller)
                && outcome.status.success()
                && let Err(error) = console.pass_on(Path::new(caller))
            {
                remove(request, &runtime);
                return Err(Error::Console(error));
            }
            break (outcome, log, session);
        }
        // The runtime has forgotten the container already, and the hooks that
        // set its network up may run again: Docker's moves it to wherever it is
        // told (libnetwork, `Sandbox.SetKey`).
        if connections == Connections::Try && log.cause() == Some(Cause::AddressNotAvailable) {
            connections = Connections::Close;
            session.into_iter().for_each(Session::end);
            continue;
        }
        // Whatever CRIU, the kernel or the page source could not do lazily, an
        // eager restore may do; if it can't either, its reason is the better one.
        let Some(mut lazy) = session else {
            break (outcome, log, None);
        };
        // A hook that failed has nothing to do with memory, and a container whose
        // bundle is gone is not wanted any more.
        if criu::hook_failed(request) || !bundle.exists() {
            break (outcome, log, Some(lazy));
        }
        let failure = failure(request, &config, &log, &outcome, &shown, Some(&mut lazy));
        lazy.end();
        reporter.quiet_warning(&format!("restoring eagerly, because {failure}"));
        shown = show(&|_| false)?;
    };
    drop(network_lock);
    drop(lent);

    // In the foreground the runtime ends with the container, and its exit code
    // is the container's; only CRIU's log tells whether it began.
    let detached = request.has("detach");
    if !outcome.status.success() && (detached || !has_run(&log, None)) {
        let session = session.as_mut();
        return Err(failure(request, &config, &log, &outcome, &shown, session));
    }
    drop(shown);
    let incomplete = |why: String| Error::failed(request, Failure::without_log(why));
    if detached && let Some(why) = session.as_mut().and_then(|session| session.confirm(find)) {
        remove(request, &runtime);
        return Err(incomplete(why));
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
        if let Err(error) = settled {
            remove(request, &runtime);
            let why = session.as_mut().and_then(Session::failure);
            return Err(why.map_or(error, incomplete));
        }
    }
    Ok(exit_code(outcome.status))
}

/// Whether a restore came so far that the container may have run.
fn has_run(log: &Log, session: Option<&mut Session>) -> bool {
    log.contains("Restore finished successfully") || session.is_some_and(Session::may_run)
}

/// Why a restore failed. A damaged file comes first, of which CRIU saw an I/O
/// error; then CRIU's own reason; then the page source's, of which CRIU saw the end
/// of a connection.
fn failure(
    request: &Request,
    config: &Config,
    log: &Log,
    outcome: &Outcome,
    shown: &ImagesView,
    session: Option<&mut Session>,
) -> Error {
    let mut failure = log.failure(request, config, outcome);
    let damage = shown.damage().map(|damage| damage.to_string());
    let source = || match log.has_own_reason() {
        true => None,
        false => session?.last_word(),
    };
    if let Some(reason) = damage.or_else(source) {
        failure.why = reason.into();
    }
    Error::failed(request, failure)
}

/// Locks the connections of a checkpoint in the network namespace that it is
/// going to be restored into, which has no addresses yet. None where that can't
/// be done: the restore tries it again and says why.
pub(crate) fn lock_network(images: &Path, netns: &Path) -> Option<NetworkLock> {
    let open = tcp::connections(images).ok()?;
    NetworkLock::begin(netns, &open).ok()
}

/// Refuses what needs the page files as CRIU wrote them: a page daemon of the
/// caller's own reads them where they are, and removing what was restored writes
/// to them.
fn refuse_stock_only(request: &Request, images: &Path) -> Result<(), Error> {
    let flag = ["lazy-pages", "auto-dedup"]
        .into_iter()
        .find(|flag| request.has(flag));
    match flag {
        Some(flag) if images.join(manifest::NAME).exists() => Err(Error::StockOnly {
            id: request.id.clone(),
            flag,
            dir: images.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// A network namespace for a bundle that has none.
enum Lend {
    /// The caller's, who may have prepared it: interfaces, addresses, routes.
    Given(PathBuf),
    /// A fresh one.
    Fresh(Netns),
}

impl Lend {
    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Fresh(netns) => netns.path(),
        }
    }
}

/// The namespace to lend to the bundle, if it has none and the checkpoint needs
/// one.
fn netns_to_lend(
    request: &Request,
    bundle: &Bundle,
    network: Network,
    reporter: &Reporter,
) -> Result<Option<Lend>, Error> {
    match network {
        Network::External if !bundle.has_netns() => {
            let failure = Failure::without_log(Cause::MissingNetns.to_string());
            Err(Error::failed(request, failure))
        }
        Network::External if bundle.wants_netns() => match request.value("netns") {
            Some(path) => Ok(Some(Lend::Given(path.into()))),
            None => Netns::create()
                .map(|netns| Some(Lend::Fresh(netns)))
                .map_err(|source| Error::Netns {
                    id: request.id.clone(),
                    source,
                }),
        },
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

/// The network that the container gets, for whom its connections concern.
fn target<'a>(bundle: &'a Bundle, network: Network, lent: Option<&'a Path>) -> Target<'a> {
    match network {
        Network::Own => Target::Empty,
        Network::Host => Target::Namespace(Path::new("/proc/self/ns/net")),
        Network::External => match lent {
            Some(_) if bundle.has_hooks() => Target::Later,
            Some(netns) => Target::Namespace(netns),
            None => Target::Namespace(bundle.netns_path()),
        },
    }
}

/// The runtime's command, with what it needs while it runs.
struct Prepared {
    command: Command,
    /// CRIU reads it through our entry in /proc.
    _options: Option<ConfigFile>,
}

fn command(
    request: &Request,
    runtime: &Runtime,
    work: &WorkDir,
    shown: Option<&Path>,
    wanted: RestoreOptions,
    lazy: bool,
    console: Option<&Path>,
) -> Result<Prepared, Error> {
    // Locks and outside sockets that the checkpoint holds were allowed when it
    // was taken; a restore that refused them would only make it useless.
    let mut flags = vec!["--file-locks", "--ext-unix-sk"];
    if !wanted.tcp_close {
        flags.push("--tcp-established");
    }
    let options = match wanted == RestoreOptions::default() {
        true => None,
        false => {
            Some(ConfigFile::new(|inherited| wanted.render(inherited)).map_err(Error::CriuConfig)?)
        }
    };
    if let WorkDir::Ours(_, flag) = work {
        flags.push(flag);
    }
    if lazy {
        flags.push("--lazy-pages");
    }
    let values: Vec<(&str, &OsStr)> = [("image-path", shown), ("console-socket", console)]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?.as_os_str())))
        .collect();
    let mut args = request.with_values(&flags, &values);
    // crun never becomes a subreaper and knows no flag against it, which every
    // caller gives that detaches (containerd's shim, Docker).
    if request.has("no-subreaper") && runtime.is_crun() {
        args.retain(|arg| arg != "--no-subreaper" && arg != "-no-subreaper");
    }
    if request.has(TCP_CLOSE) && !runtime.is_crun() {
        args.retain(|arg| {
            let name = arg.to_str().unwrap_or_default().trim_start_matches('-');
            name != TCP_CLOSE && !name.starts_with("tcp-close=")
        });
    }
    let mut command = runtime.command(&args);
    if let Some(options) = &options {
        let (name, value) = options.variable();
        command.env(name, value);
    }
    Ok(Prepared {
        command,
        _options: options,
    })
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
        container.remove_netns_path()?;
    } else if network == Network::Own {
        // CRIU makes such a namespace anew and leaves loopback down.
        if let Err(error) = netns::loopback_up_in(container.init) {
            reporter.quiet_warning(&error);
        }
    }
    let from_file = request
        .value("pid-file")
        .map(Path::new)
        .and_then(liveness::pid_of);
    let pid = from_file.unwrap_or(container.init);
    let Some(how) = liveness::watch(pid, config.restore.settle) else {
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
    let root = request.globals.root.as_deref();
    unmount_leftover_root(root, &request.id);
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
