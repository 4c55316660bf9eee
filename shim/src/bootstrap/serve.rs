//! Runs the shim: serves the task API on its socket until the last container is
//! deleted and containerd sends Shutdown.
//!
//! The service is registered under two names. Versions 2 and 3 of the task API have
//! the same messages, and a containerd that is upgraded from 1.7 to 2 keeps the
//! running shims.

use std::{collections::HashMap, env, fs, io, os::unix::net::UnixListener, path::Path, sync::Arc};

use containerd_shim::{
    ExitSignal, Flags, logger,
    protos::{
        shim_async::{Task, create_task},
        ttrpc::r#async::{Server, Service as TtrpcService, transport::Listener},
    },
};
use log::{debug, info, warn};
use tokio::signal::unix::{SignalKind, signal};

use super::{STOCK_NAME_VARIABLE, default_runtime, start::is_listening};
use crate::{
    container::Host,
    error::{Context, Error, Result, at},
    events::Events,
    reaper::Reaper,
    service::Service,
    sys,
};

const NAME_V3: &str = "containerd.task.v3.Task";
const NAME_V2: &str = "containerd.task.v2.Task";

/// Serves at the address in `flags`. Returns at once if another shim of the pod
/// already serves there.
///
/// # Errors
/// When the socket can't be bound or containerd can't be reached.
pub(super) async fn serve(flags: &Flags) -> Result<()> {
    logger::init(flags.debug, "info", &flags.namespace, &flags.id).map_err(setup)?;
    let path = Path::new(flags.socket.trim_start_matches("unix://"));
    let Some(listener) = bind(path, &flags.socket)? else {
        return sys::close_stdout().context(|| "close stdout");
    };
    leave_containerd()?;
    let exit = Arc::<ExitSignal>::default();
    let host = host(flags).await?;
    let events = host.events.clone();
    let service: Arc<dyn Task + Send + Sync> = Arc::new(Service::new(host, exit.clone()));
    let listener = Listener::try_from(listener).context(|| at("listen on", path))?;
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(named(NAME_V3, &service))
        .register_service(named(NAME_V2, &service));
    server
        .start()
        .await
        .map_err(|e| Error::Runtime(format!("serve: {e}")))?;
    // `start` waits for EOF on stdout.
    sys::close_stdout().context(|| "close stdout")?;
    info!("serving {} as process {}", flags.id, std::process::id());
    exit.wait().await;
    info!("the last container is deleted");
    // Removed before the server shuts down, so that no client connects to an exiting
    // shim and no socket of a successor is removed.
    if let Err(e) = fs::remove_file(path) {
        warn!("{}: {e}", at("remove", path));
    }
    events.flush().await;
    // The last client has disconnected, so errors of connections do not matter.
    let _ = server.shutdown().await;
    Ok(())
}

fn setup(e: containerd_shim::Error) -> Error {
    Error::Runtime(format!("set up the shim: {e}"))
}

async fn host(flags: &Flags) -> Result<Host> {
    let containerd = env::var("TTRPC_ADDRESS").map_err(|_| {
        Error::InvalidArgument("containerd's address is missing: TTRPC_ADDRESS is not set".into())
    })?;
    Ok(Host {
        namespace: flags.namespace.clone(),
        named_as_stock: env::var_os(STOCK_NAME_VARIABLE).is_some(),
        default_runtime: default_runtime(|warning| warn!("{warning}")),
        reaper: Reaper::start().context(|| "handle SIGCHLD")?,
        events: Events::deliver(containerd, flags.namespace.clone())
            .await
            .context(|| "connect to containerd's event service")?,
    })
}

/// Binds the socket; None if another shim listens on it. A stale socket is replaced.
fn bind(path: &Path, address: &str) -> Result<Option<UnixListener>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).context(|| at("create", folder))?;
    }
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound.map(Some).context(|| at("listen on", path)),
    }
    if is_listening(address) {
        return Ok(None);
    }
    fs::remove_file(path).context(|| at("remove", path))?;
    UnixListener::bind(path)
        .map(Some)
        .context(|| at("listen on", path))
}

/// Leaves containerd's process group, whose signals, such as a terminal's Ctrl-C, are
/// not for the shim. Shutdown ends a shim. SIGTERM must not, because the containers
/// would lose their supervisor.
fn leave_containerd() -> Result<()> {
    if let Err(e) = nix::unistd::setsid() {
        debug!("setsid: {e}");
    }
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        // A handler rather than SIG_IGN, which containers would inherit. The handler
        // stays when its stream is dropped.
        drop(signal(kind).context(|| "handle a signal")?);
    }
    // containerd sets this variable for `sched_core = true`.
    if env::var_os("SCHED_CORE").is_some_and(|on| !on.is_empty()) {
        sys::create_core_scheduling_group().context(|| "enable sched core support")?;
    }
    Ok(())
}

fn named(name: &str, service: &Arc<dyn Task + Send + Sync>) -> HashMap<String, TtrpcService> {
    create_task(service.clone())
        .into_values()
        .map(|service| (name.to_owned(), service))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/socket");
        let address = format!("unix://{}", path.display());
        let alive = bind(&path, &address).unwrap();
        assert!(alive.is_some());
        assert!(bind(&path, &address).unwrap().is_none());
        drop(alive);
        assert!(bind(&path, &address).unwrap().is_some());
    }
}
