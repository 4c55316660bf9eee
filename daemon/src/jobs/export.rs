//! Exporting a checkpoint into one file.

use std::path::PathBuf;
use std::sync::Arc;

use cedana_config::Config;
use tokio::sync::oneshot;

use super::Jobs;
use crate::caller::Caller;
use crate::checkpoints::{Failure, Kind, Tell, transfer};
use crate::job::bytes::Bytes;
use crate::worker::{Engine, Export, Owner, Podman, Transferred};

/// What a caller asks to export, and to where.
#[derive(Debug, Clone)]
pub(crate) struct WantedExport {
    pub(crate) what: What,
    /// The new file.
    pub(crate) file: PathBuf,
    /// Podman's format.
    pub(crate) podman: Option<Podman>,
    pub(crate) config: Config,
}

/// What is exported.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A checkpoint of a job.
    Number(u64),
    /// A directory or an archive.
    Path(PathBuf),
}

impl Jobs {
    /// Exports a checkpoint. The file is made with the caller's rights. Dropping the call
    /// cancels it.
    ///
    /// # Errors
    /// There is no such checkpoint of the caller's, it is damaged, or the file can't be
    /// written.
    pub(crate) async fn export(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: WantedExport,
        tell: &Tell,
    ) -> Result<Transferred, Failure> {
        let owner = Owner::of(caller.credentials());
        let (path, reader) = match wanted.what {
            What::Path(path) => (Bytes::of_path(&path), owner.clone()),
            What::Number(number) => {
                let row = self.numbered(caller, number).await?;
                let path = row.path.as_path();
                if !path.is_absolute() {
                    let image = path.display();
                    let text = format!(
                        "{image} is an image of containerd; export it with `ctr image export FILE {image}`"
                    );
                    return Err(Failure::new(Kind::State, text));
                }
                let reader = match self.is_own(&row.key, path) {
                    true => Owner::root(),
                    false => owner.clone(),
                };
                (row.path, reader)
            }
        };
        let task = Export {
            path,
            reader,
            file: Bytes::of_path(&wanted.file),
            owner,
            podman: wanted.podman,
            engine: Engine::of(&wanted.config),
        };
        let _turn = self.dump_turn(caller.uid()).await;
        // Dropped with this call, which cancels it.
        let (_here, gone) = oneshot::channel();
        transfer::export(task, tell, gone).await
    }
}
