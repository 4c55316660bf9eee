//! Update: applies new limits to a container (OCI runtime-spec, config-linux.md,
//! "resources").

use std::io::{Seek, Write};

use containerd_shim::protos::protobuf::well_known_types::any::Any;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Container;
use super::state::Request;
use crate::{
    error::{Context, Error, Result},
    runtime::Io,
};

impl Container {
    /// Applies the resources in `request`, JSON as containerd sends it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without resources; the OCI runtime's refusal.
    pub(crate) async fn update(&self, request: Option<&Any>) -> Result<()> {
        let resources = request
            .map(|any| any.value.as_slice())
            .filter(|json| !json.is_empty())
            .ok_or_else(|| Error::InvalidArgument("update carries no resources".into()))?;
        let _operation = self.operation_lock.write().await;
        self.state().admit(Request::Update)?;
        let mut input = std::fs::File::from(
            memfd_create(c"resources", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create")?,
        );
        input
            .write_all(resources)
            .and_then(|()| input.rewind())
            .context(|| "write resources")?;
        let mut command = self.runtime.command("update");
        command.args(["--resources", "-"]).arg(&self.id);
        self.runtime
            .run(
                &self.host.reaper,
                command,
                Io::Input(input.into()),
                "OCI runtime update failed",
            )
            .await
    }
}
