//! Compares the checkpoint with the bundle's configuration before CRIU reads it
//! (`restore.check`).

use std::path::Path;

use cedana_checkpoint::criu::config::ExternalMount;
use cedana_checkpoint::precheck;
use cedana_config::{Check, Config};

use super::Context;
use super::granted::granted;
use crate::commands::error::Error;
use crate::oci::bundle::Bundle;

/// Checks the images in `dir`, from which CRIU will restore.
///
/// # Errors
/// The checkpoint wants more than the configuration gives, or can't be compared, and the
/// node's setting is strict.
pub(super) fn run(
    context: &Context<'_>,
    config: &Config,
    bundle: &Bundle,
    mounts: &[ExternalMount],
    dir: &Path,
) -> Result<(), Error> {
    if config.restore.check == Check::Off {
        return Ok(());
    }
    let granted = granted(bundle.spec(), bundle.path(), mounts);
    let found = match precheck::check(dir, &granted) {
        Ok(refusals) => refusals.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    };
    let id = &context.request.id;
    match (found.is_empty(), config.restore.check) {
        (true, _) => Ok(()),
        (false, Check::Warn) => {
            for difference in found {
                context.reporter.warning(&format!(
                    "container {id} gets more than its configuration gives: {difference}"
                ));
            }
            Ok(())
        }
        _ => Err(Error::Precheck {
            id: id.clone(),
            found,
        }),
    }
}
