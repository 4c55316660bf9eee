//! The daemon's life: locks, database, the jobs of the last daemon, then requests until
//! SIGTERM or SIGINT.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cedana_api::DESCRIPTORS;
use cedana_api::places::TOKEN_FILE;
use cedana_api::v1::checkpoint_service_server::CheckpointServiceServer;
use cedana_api::v1::daemon_service_server::DaemonServiceServer;
use cedana_api::v1::job_service_server::JobServiceServer;
use nix::fcntl::Flock;
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};

use crate::checkpoints;
use crate::error::Error;
use crate::jobs::Jobs;
use crate::listen::auth::Auth;
use crate::listen::token::Token;
use crate::listen::{connection, lock, socket, tls};
use crate::options::Options;
use crate::service::{CheckpointService, InfoService, Service};
use crate::store::Store;
use crate::{logger, memory_store, service_manager, sys};

/// How long clients may take to finish their requests when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the daemon until a signal stops it.
///
/// # Errors
/// It can't start, or its server failed.
pub fn run(options: Options) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    sys::limit_allocator_memory();
    logger::init(options.debug);
    umask(Mode::from_bits_truncate(0o077));
    // One worker for requests; queries run on threads that end when they are idle.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .map_err(Error::other("start the runtime"))?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Error> {
    let passed = service_manager::sockets().map_err(Error::other("take systemd's sockets"))?;
    let passed = socket::of_service_manager(passed)?;
    let _locks = prepare(&options)?;
    // Before anything is changed, so that a mistake in the address changes nothing.
    let tcp = match options.tcp {
        Some(address) => Some(listen_tcp(address, &options).await?),
        None => None,
    };
    let store = Store::open(&options.state_dir, &options.store)?;
    let token = Token::load_or_create(&options.state_dir.join(TOKEN_FILE))?;
    let jobs = Jobs::new(store, options.state_dir.clone(), options.run_dir.clone());
    jobs.recover()
        .await
        .map_err(|error| Error::Other(error.to_string()))?;
    let listener = match passed {
        Some(listener) => listener,
        None => socket::bind(&options.socket)?,
    };
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(Error::file("listen on", &options.socket))?;
    let services = services(&jobs, &Auth::new(token))?;
    // Not awaited: a containerd may hang.
    tokio::spawn(checkpoints::containerd::finish());
    tokio::spawn(memory_store::timer::run());
    log::info!(
        "listening on {}{}",
        options.socket.display(),
        options
            .tcp
            .map_or_else(String::new, |address| format!(" and {address}"))
    );
    let answered = answer(listener, tcp, services).await;
    checkpoints::all_ended().await;
    answered
}

/// The most calls at a time on one connection.
const MAX_STREAMS: u32 = 100;

type Tcp = (TcpListener, Option<ServerTlsConfig>);

/// Answers requests until a signal.
async fn answer(socket: UnixListener, tcp: Option<Tcp>, services: Routes) -> Result<(), Error> {
    let (stop, stopping) = watch::channel(false);
    let on_socket = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_routes(services.clone())
        .serve_with_incoming_shutdown(connection::incoming(socket), stopped(stopping.clone()));
    let on_tcp = async {
        let Some((listener, tls)) = tcp else {
            return Ok(());
        };
        let mut server = Server::builder().max_concurrent_streams(MAX_STREAMS);
        if let Some(tls) = tls {
            server = server
                .tls_config(tls)
                .map_err(|error| Error::Tls(error.to_string()))?;
        }
        server
            .add_routes(services.clone())
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped(stopping))
            .await
            .map_err(Error::serve)
    };
    let stop_on_signal = async {
        wait_for_signal().await?;
        service_manager::notify("STOPPING=1");
        checkpoints::cancel_all();
        log::info!("stopping; jobs go on");
        // The receivers live in the servers.
        let _ = stop.send(true);
        tokio::time::sleep(FAREWELL).await;
        Ok(())
    };
    service_manager::notify("READY=1");
    let both = async {
        tokio::try_join!(async { on_socket.await.map_err(Error::serve) }, on_tcp).map(drop)
    };
    // A client that follows a log would keep the server alive.
    tokio::select! {
        ended = both => ended,
        stopped = stop_on_signal => stopped,
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the daemon is gone, too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn wait_for_signal() -> Result<(), Error> {
    let handle = |kind| signal(kind).map_err(Error::other("handle a signal"));
    let mut terminate = handle(SignalKind::terminate())?;
    let mut interrupt = handle(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Creates the directories and takes the locks.
fn prepare(options: &Options) -> Result<[Flock<File>; 2], Error> {
    socket::create_directory(&options.socket)?;
    create_private(&options.state_dir)?;
    create_private(&options.run_dir.join("jobs"))?;
    let mut of_socket = options.socket.clone().into_os_string();
    of_socket.push(".lock");
    Ok([
        lock::take("the socket", &options.socket, of_socket.into())?,
        lock::take(
            "the state directory",
            &options.state_dir,
            options.state_dir.join("lock"),
        )?,
    ])
}

fn create_private(directory: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
        .map_err(Error::file("create", directory))
}

async fn listen_tcp(address: SocketAddr, options: &Options) -> Result<Tcp, Error> {
    let tls = tls(address, options.tls.as_ref())?;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen {
        address: address.to_string(),
        source,
        remedy: "choose another address with --tcp or daemon.tcp in config.toml, or `--tcp off`",
    })?;
    Ok((listener, tls))
}

/// All services. The caller of each request is found first; only health is for all.
fn services(jobs: &Arc<Jobs>, auth: &Auth) -> Result<Routes, Error> {
    let check = {
        let auth = auth.clone();
        move |request| auth.check(request)
    };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::Other(format!("gRPC reflection: {error}")))?;
    let (_, health) = tonic_health::server::health_reporter();
    Ok(Routes::new(health)
        .add_service(InterceptedService::new(reflection, check.clone()))
        .add_service(DaemonServiceServer::with_interceptor(
            InfoService::new(),
            check.clone(),
        ))
        .add_service(JobServiceServer::with_interceptor(
            Service::new(Arc::clone(jobs)),
            check.clone(),
        ))
        .add_service(CheckpointServiceServer::with_interceptor(
            CheckpointService::new(Arc::clone(jobs)),
            check,
        )))
}
