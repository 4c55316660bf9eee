//! What a container gets when its restored processes run: what neither CRIU nor the
//! runtime sets again, and what can't be set before. The container goes on without what
//! can't be set.

use cedana_checkpoint::attributes::{Attributes, Privileges};
use cedana_checkpoint::format::contents::Contents;
use cedana_checkpoint::images::Network;
use serde_json::Value;

use super::Context;
use crate::host::cgroup::Cgroup;
use crate::host::procfs;
use crate::network::netns;
use crate::network::sysctl::{self, Sysctl};
use crate::oci::state::Container;

/// See the module's documentation.
pub(super) struct Afterwards {
    network: Network,
    /// The spec's that are not set yet.
    sysctls: Vec<Sysctl>,
    attributes: Option<Attributes>,
    privileges: Privileges,
}

impl Afterwards {
    /// What is left for the container of a spec, from a checkpoint.
    pub(super) fn new(
        context: &Context<'_>,
        spec: &Value,
        images: &Contents,
        (network, sysctls): (Network, Vec<Sysctl>),
    ) -> Self {
        let attributes = Attributes::read(images).unwrap_or_else(|error| {
            context.reporter.quiet_warning(&error);
            None
        });
        Self {
            network,
            sysctls,
            attributes,
            privileges: privileges(spec),
        }
    }

    /// Sets it.
    pub(super) fn set(&self, context: &Context<'_>, container: &Container) {
        let warn = |warning: &dyn std::fmt::Display| context.reporter.quiet_warning(warning);
        if self.network == Network::Own
            // CRIU makes such a namespace anew and leaves loopback down.
            && let Err(error) = netns::loopback_up_in(container.init)
        {
            warn(&error);
        }
        let namespace = procfs::of(container.init).join("ns/net");
        match sysctl::set(&namespace, self.sysctls.clone()) {
            Ok(unset) => unset.iter().for_each(|unset| warn(unset)),
            Err(error) => warn(&format!("the sysctls of the spec can't be set: {error}")),
        }
        if let Some(attributes) = &self.attributes {
            let cgroup = container.cgroup.as_deref().and_then(Cgroup::open);
            let processes = cgroup.map(|cgroup| cgroup.processes()).unwrap_or_default();
            let done = attributes.put_back(&processes, container.init, self.privileges);
            if let Err(failed) = done {
                warn(&failed);
            }
        }
    }
}

/// What a container of this spec may set itself. The kernel asks for the capability in its
/// first user namespace.
fn privileges(spec: &Value) -> Privileges {
    let capabilities = spec.pointer("/process/capabilities/bounding");
    let mut names = capabilities
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let has_user_namespace =
        namespaces.is_some_and(|all| all.iter().any(|namespace| namespace["type"] == "user"));
    let may = names.any(|name| matches!(name, "CAP_SYS_NICE" | "CAP_SYS_ADMIN"));
    match may && !has_user_namespace {
        true => Privileges::Priorities,
        false => Privileges::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_without_the_capability_has_no_privileges() {
        let spec = |names: &[&str], namespace: &str| {
            json!({
                "process": {"capabilities": {"bounding": names}},
                "linux": {"namespaces": [{"type": namespace}]},
            })
        };
        assert_eq!(privileges(&json!({})), Privileges::None);
        assert_eq!(privileges(&spec(&["CAP_KILL"], "pid")), Privileges::None);
        let nice = ["CAP_KILL", "CAP_SYS_NICE"];
        assert_eq!(privileges(&spec(&nice, "pid")), Privileges::Priorities);
        assert_eq!(privileges(&spec(&nice, "user")), Privileges::None);
    }
}
