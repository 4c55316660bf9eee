//! Reads crun's status file and its copy of config.json, 1.8 to 1.28.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Container, Error, Kind, Network, form, read_json};
use crate::host::cgroup;
use crate::oci::spec;
use cedana_contract::pid::Pid;

pub(super) fn read(status: &Path, config: PathBuf) -> Result<Container, Error> {
    let state = read_json(status)?;
    let init = state
        .get("pid")
        .and_then(Value::as_i64)
        .and_then(|pid| Pid::try_from(pid).ok())
        .ok_or_else(|| form(status, "no pid"))?;
    let spec = read_json(&config)?;
    let network = match spec::netns_entry(&spec) {
        None => Network::Host,
        Some(entry) => Network::from_path(entry.get("path").and_then(Value::as_str)),
    };
    let cgroup = state
        .get("cgroup-path")
        .and_then(Value::as_str)
        .and_then(cgroup::freezer_directory);
    Ok(Container {
        kind: Kind::Crun,
        init,
        annotations: spec::annotations(&spec),
        network,
        cgroup,
        config: Some(config.clone()),
        record: config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;
    use std::fs;

    #[test]
    fn the_path_is_read_and_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (status, config) = (dir.path().join("status"), dir.path().join("config.json"));
        fs::write(&status, r#"{"pid":7,"cgroup-path":"/no/such/group"}"#).expect("write");
        fs::write(
            &config,
            r#"{"annotations":{"a":"b"},"linux":{"namespaces":[{"type":"network","path":"/p"}]}}"#,
        )
        .expect("write");
        let container = read(&status, config.clone()).expect("valid");
        assert_eq!((container.init, container.cgroup.as_ref()), (pid(7), None));
        assert_eq!(container.annotations["a"], "b");
        assert_eq!(container.network, Network::Path("/p".into()));
        container.remove_netns_path().expect("written");
        let container = read(&status, config).expect("valid");
        assert_eq!(container.network, Network::Own);
    }
}
