//! What containerd calls the shim binary for: `start` a shim for a container or
//! pod, `delete` what a killed shim left behind, `-info` about the runtime.
//! (containerd, core/runtime/v2/README.md, "Commands".)
//!
//! `start` runs in the bundle of a new container. It answers with the address
//! of a shim: a fresh one, or, for the second container of a pod, the one that
//! already serves the first. The shim's socket is bound by the shim process
//! itself, so that between two containers of a pod that start at once the
//! kernel decides.

use std::{
    env,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use containerd_shim::{
    Config, DeleteResponse, ExitSignal, Flags, Shim, StartOpts,
    asynchronous::{spawn, util::write_str_to_file},
    protos::{
        protobuf::{MessageField, well_known_types::any::Any},
        types::introspection::{RuntimeInfo, RuntimeVersion},
    },
    publisher::RemotePublisher,
};
use log::{debug, warn};

use crate::{
    container::{self, Host},
    events::Events,
    options::CreateOptions,
    reaper::Reaper,
    rootfs,
    runtime::{Runtime, read_pid},
    service::Service,
    spec::Spec,
    sys,
};

/// containerd's type name of the OCI features document (typeurl of
/// specs-go/features.Features).
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// The exit status of a container that is gone without a word, as containerd's
/// own shim tells it: killed.
const KILLED: u32 = 128 + 9;

/// One call of the binary.
pub(crate) struct Call {
    id: String,
    namespace: String,
    exit: Arc<ExitSignal>,
}

#[async_trait]
impl Shim for Call {
    type T = Service;

    async fn new(_: &str, flags: &Flags, _: &mut Config) -> Self {
        Self {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            exit: Arc::default(),
        }
    }

    async fn start_shim(&mut self, options: StartOpts) -> containerd_shim::Result<String> {
        let spec = Spec::read(Path::new("."))?;
        let group = spec.group().unwrap_or(&self.id).to_owned();
        let address = options.socket_address(&group);
        if !answers(&address) {
            spawn(options, &group, Vec::new()).await?;
        }
        write_str_to_file("address", &address).await?;
        Ok(address)
    }

    async fn delete_shim(&mut self) -> containerd_shim::Result<DeleteResponse> {
        let here = env::current_dir()
            .map_err(|e| containerd_shim::Error::Other(format!("the working directory: {e}")))?;
        // Called in the bundle of any container of the pod.
        let bundle = here.with_file_name(&self.id);
        let runtime = Runtime::new(
            &CreateOptions::load(&bundle),
            &default_runtime()?,
            &self.namespace,
            &bundle,
        );
        let mut delete = runtime.command("delete");
        delete.arg("--force").arg(&self.id);
        report(delete.output(), "runtime delete");
        if let Err(e) = rootfs::unmount_now(&bundle.join("rootfs")) {
            warn!("{e}");
        }
        container::remove_remembered(&bundle);
        Ok(DeleteResponse {
            pid: read_pid(&bundle.join(container::INIT_PID_FILE))
                .unwrap_or_default()
                .cast_unsigned(),
            exit_status: KILLED,
            exited_at: MessageField::some(SystemTime::now().into()),
            ..DeleteResponse::default()
        })
    }

    async fn wait(&mut self) {
        self.exit.wait().await;
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> Service {
        prepare_process();
        let reaper = Reaper::start().unwrap_or_else(|e| fail(&format!("SIGCHLD: {e}")));
        let default_runtime = default_runtime().unwrap_or_else(|e| fail(&e.to_string()));
        let host = Host {
            namespace: self.namespace.clone(),
            default_runtime,
            reaper,
            events: Events::deliver(publisher, self.namespace.clone()),
        };
        Service::new(host, self.exit.clone())
    }

    fn runtime_info(name: &str, options: Option<&Any>) -> containerd_shim::Result<RuntimeInfo> {
        let read = CreateOptions::from_request(options)?;
        let runtime = Runtime::new(&read, &default_runtime()?, "", Path::new(""));
        Ok(RuntimeInfo {
            name: name.to_owned(),
            version: MessageField::some(RuntimeVersion {
                version: env!("CARGO_PKG_VERSION").into(),
                ..RuntimeVersion::default()
            }),
            options: options.cloned().into(),
            features: features(runtime.binary())?.into(),
            ..RuntimeInfo::default()
        })
    }
}

/// Whether a shim listens at `address`.
fn answers(address: &str) -> bool {
    UnixStream::connect(address.trim_start_matches("unix://")).is_ok()
}

/// Away from containerd: a terminal's Ctrl-C, or a signal to containerd's
/// process group, is not for us.
fn prepare_process() {
    if let Err(e) = nix::unistd::setsid() {
        debug!("setsid: {e}");
    }
    // Set by containerd for `sched_core = true`.
    if env::var_os("SCHED_CORE").is_some_and(|on| !on.is_empty())
        && let Err(e) = sys::schedule_on_own_cores()
    {
        fail(&format!("enable sched core support: {e}"));
    }
}

fn default_runtime() -> containerd_shim::Result<PathBuf> {
    cedana_config::Config::load()
        .map(|config| config.runtime)
        .map_err(|e| containerd_shim::Error::Other(e.to_string()))
}

/// The OCI features document of a runtime (runtime-spec, features.md); none
/// for a runtime without that command.
fn features(binary: &Path) -> containerd_shim::Result<Option<Any>> {
    let output = Command::new(binary).arg("features").output().map_err(|e| {
        containerd_shim::Error::Other(format!("cannot run {}: {e}", binary.display()))
    })?;
    let document = serde_json::from_slice::<serde::de::IgnoredAny>(&output.stdout);
    Ok((output.status.success() && document.is_ok()).then(|| Any {
        type_url: FEATURES.into(),
        value: output.stdout,
        ..Any::default()
    }))
}

fn report(output: std::io::Result<std::process::Output>, what: &str) {
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => warn!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(e) => warn!("{what}: {e}"),
    }
}

/// The shim can't serve: says why where `start` passes it on to containerd.
fn fail(reason: &str) -> ! {
    log::error!("{reason}");
    println!("{reason}");
    std::process::exit(1);
}
