//! Names that containerd and Docker chose.

use std::path::Path;

/// Docker's namespace in containerd, unless `containerd-namespace` in daemon.json
/// names another one.
pub const DOCKER_NAMESPACE: &str = "moby";

/// The prefix of the temporary directories that containerd creates for the
/// checkpoints that it packs and unpacks (`services/tasks/local.go`, 1.7 to 2.4).
const TEMPORARY: &str = "ctrd-checkpoint";

/// Whether `os.MkdirTemp(DIR, "ctrd-checkpoint")` made a directory of this name:
/// it appends digits.
///
/// ```
/// use cedana_contract::engine::is_temporary_checkpoint;
/// use std::path::Path;
///
/// assert!(is_temporary_checkpoint(Path::new("/tmp/ctrd-checkpoint123")));
/// assert!(!is_temporary_checkpoint(Path::new("/tmp/ctrd-checkpoint")));
/// assert!(!is_temporary_checkpoint(Path::new("/tmp/ctrd-checkpoint-mine")));
/// ```
#[must_use]
pub fn is_temporary_checkpoint(dir: &Path) -> bool {
    let digits = dir
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix(TEMPORARY));
    digits.is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}
