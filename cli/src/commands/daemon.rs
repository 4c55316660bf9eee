//! `cedana daemon start`, `cedana daemon status`.

use cedana_api::time::to_micros;
use cedana_api::v1::GetInfoRequest;
use cedana_config::Config;
use cedana_daemon::{Options, TlsFiles};

use super::Context;
use crate::args::DaemonStart;
use crate::error::{Error, Result};
use crate::output::{to_stdout, units};

/// Runs the daemon in this process.
///
/// # Errors
/// Its settings, or that it can't start.
pub(crate) fn start(flags: DaemonStart) -> Result<()> {
    let config = Config::load()?;
    let (settings, store) = (config.daemon, config.store.path);
    let tcp = match flags.tcp.as_deref() {
        None => settings.tcp,
        Some("off") => None,
        Some(address) => Some(address.parse().map_err(|_| {
            Error::Other(format!(
                "--tcp {address}: give an IP address with a port, such as 127.0.0.1:8080, or off"
            ))
        })?),
    };
    let tls = match (
        settings.tls_certificate,
        settings.tls_key,
        settings.tls_client_ca,
    ) {
        (Some(certificate), Some(key), Some(client_ca)) => Some(TlsFiles {
            certificate,
            key,
            client_ca,
        }),
        (None, None, None) => None,
        _ => {
            return Err(Error::Other(
                "mutual TLS needs all of daemon.tls_certificate, daemon.tls_key and daemon.tls_client_ca; set the missing ones".to_owned(),
            ));
        }
    };
    Ok(cedana_daemon::run(Options {
        socket: flags.socket.unwrap_or(settings.socket),
        tcp,
        tls,
        state_dir: flags.state_dir,
        store,
        run_dir: flags.run_dir,
        debug: flags.debug,
    })?)
}

/// Asks the daemon what it is.
///
/// # Errors
/// It does not answer.
pub(crate) async fn status(context: &Context) -> Result<()> {
    let daemon = context.daemon().await?;
    let info = daemon
        .daemon()
        .get_info(GetInfoRequest {})
        .await?
        .into_inner();
    let since = info
        .started
        .map(|started| format!(" for {}", units::ago(to_micros(&started))))
        .unwrap_or_default();
    to_stdout(format!(
        "cedana {} runs as process {}{since}\n",
        info.version, info.pid
    ));
    Ok(())
}
