//! `cedana check`.

use cedana_api::v1;

use super::{Context, subject};
use crate::args::Check;
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Checks this machine, or what would stop a checkpoint of something.
///
/// # Errors
/// Something is missing.
pub(crate) async fn run(context: &Context, check: Check) -> Result<()> {
    let Some(what) = check.what else {
        return Err(Error::Other("say what is checked".to_owned()));
    };
    let request = v1::CheckRequest {
        subject: Some(subject::of(what)?),
        directory: subject::optional(check.dir.as_deref())?,
        settings: subject::Settings::load()?.sent,
        ..Default::default()
    };
    let found = context.daemon().await?.checkpoints().check(request).await?;
    for obstacle in found.into_inner().obstacles {
        to_stdout(format!("{obstacle}\n"));
    }
    Ok(())
}
