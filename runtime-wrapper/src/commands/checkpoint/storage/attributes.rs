//! The attributes that CRIU leaves out of the container's tasks.

use cedana_checkpoint::attributes::{self, Attributes};

use super::{Criu, Storage};
use crate::commands::checkpoint::prepared::Prepared;

impl Storage<'_> {
    /// Adds what CRIU leaves out of the container's tasks, which stand still if CRIU waits.
    pub(super) fn write_attributes(&mut self, criu: Criu) {
        if criu == Criu::Waits {
            self.attributes = of(self.prepared);
        }
        if let Err(error) = self.attributes.write(&self.images()) {
            self.prepared.reporter.quiet_warning(&format!(
                "container {}: a restore will put no attributes back, since {} can't be written: {error}",
                self.prepared.request.id,
                attributes::NAME,
            ));
        }
    }
}

/// The attributes of the container's tasks now.
pub(super) fn of(prepared: &Prepared<'_>) -> Attributes {
    Attributes::of(&prepared.processes(), prepared.container.init)
}
