//! `cedana checkpoint delete` of a container's checkpoint.

use cedana_checkpoint::output::printable::printable_lines;
use cedana_daemon::memory_store::look_for;
use cedana_store::catalogue::CheckpointRow;
use cedana_store::collect::Reference;
use serde_json::Value;

use super::{SHOWN, engine, failed, id, missing, name, open};
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Removes a checkpoint from the catalogue, if nothing refers to it or it is forced.
///
/// # Errors
/// It still exists, is pinned or tagged, or the store can't be changed.
pub(crate) async fn delete(row: &CheckpointRow, force: bool) -> Result<()> {
    let Some(mut catalogue) = open(true)? else {
        return Err(missing(id(row)));
    };
    let shown = format!("checkpoint {} of {}", &id(row)[..SHOWN], name(row));
    if row.is_kept {
        return Err(Error::Other(format!(
            "{shown} is pinned or tagged; `cedana checkpoint unpin {0}` or `untag` lets it be removed",
            &id(row)[..SHOWN]
        )));
    }
    if !force {
        let blobs = catalogue.blobs().map_err(failed)?;
        if let Some(why) = refusal(row, &look_for(row, &blobs).await) {
            return Err(Error::Other(format!("{shown} {why}")));
        }
    }
    let removed = match &row.id {
        Some(id) => catalogue.remove_unkept(id).map_err(failed)?,
        None => false,
    };
    if !removed {
        return Err(Error::Other(format!(
            "{shown} was changed meanwhile; `cedana checkpoint list` shows it"
        )));
    }
    to_stdout(printable_lines(&format!(
        "{shown} was removed; the next collection frees its memory, or `cedana store gc` now\n"
    )));
    Ok(())
}

/// Why a checkpoint is not removed without force.
fn refusal(row: &CheckpointRow, reference: &Reference) -> Option<String> {
    let without = "with --force it is removed from the store, and can't be restored any more";
    let remove = match engine(row) {
        Some("docker") => {
            let container = row.subject.get("container").and_then(Value::as_str);
            format!(
                "`docker checkpoint rm {} CHECKPOINT`",
                container.unwrap_or("CONTAINER")
            )
        }
        Some("containerd") => "`ctr image rm`, in its namespace,".to_owned(),
        _ => format!("`rm -r {}`", row.path.display()),
    };
    match reference {
        Reference::Gone => None,
        Reference::Referenced => Some(format!(
            "still exists: remove it by {remove} and its memory is freed by itself; {without}"
        )),
        Reference::Unknown(why) => Some(format!("may still exist: {why}; {without}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::containers::tests::listed;

    #[test]
    fn a_checkpoint_that_exists_is_not_removed() {
        let of = |engine, reference| refusal(&listed(engine).row, &reference);
        assert_eq!(of("docker", Reference::Gone), None);
        let exists = of("docker", Reference::Referenced).expect("refused");
        assert!(exists.contains("docker checkpoint rm c1") && exists.contains("--force"));
        let exists = of("none", Reference::Referenced).expect("refused");
        assert!(exists.contains("rm -r /var/lib/a"), "{exists}");
        let unknown = of(
            "containerd",
            Reference::Unknown("it does not answer".to_owned()),
        );
        let unknown = unknown.expect("refused");
        assert!(unknown.contains("it does not answer"), "{unknown}");
    }
}
