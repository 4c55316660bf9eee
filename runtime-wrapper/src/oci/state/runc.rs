//! Reads runc's state.json (libcontainer's `State`), 1.0 to 1.4.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use cedana_contract::pid::Pid;

use super::{Container, Error, Kind, Network, form, read_json};

pub(super) fn read(record: PathBuf) -> Result<Container, Error> {
    let state = read_json(&record)?;
    let init = state
        .get("init_process_pid")
        .and_then(Value::as_i64)
        .and_then(|pid| Pid::try_from(pid).ok())
        .ok_or_else(|| form(&record, "no init_process_pid"))?;
    let namespaces = state
        .pointer("/config/namespaces")
        .and_then(Value::as_array)
        .ok_or_else(|| form(&record, "no config.namespaces"))?;
    let network = namespaces
        .iter()
        .find(|entry| entry.get("type").and_then(Value::as_str) == Some("NEWNET"))
        .map_or(Network::Host, |entry| {
            Network::from_path(entry.get("path").and_then(Value::as_str))
        });
    // runc stores annotations as labels, next to its own label "bundle=".
    let annotations: BTreeMap<String, String> = state
        .pointer("/config/labels")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|label| label.as_str()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let config = annotations
        .get("bundle")
        .map(|bundle| Path::new(bundle).join("config.json"));
    // By controller on cgroup v1; under the empty name on v2.
    let cgroup = state
        .get("cgroup_paths")
        .and_then(|paths| paths.get("freezer").or_else(|| paths.get("")))
        .and_then(Value::as_str)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    Ok(Container {
        kind: Kind::Runc,
        init,
        annotations,
        network,
        cgroup,
        config,
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pid;
    use std::fs;

    fn record(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("state.json");
        fs::write(&path, text).expect("write");
        (dir, path)
    }

    const STATE: &str = r#"{"id":"c","init_process_pid":42,
        "config":{"namespaces":[{"type":"NEWNS","path":""},{"type":"NEWNET","path":"/proc/9/task/10/ns/net"}],
                  "labels":["io.cedana.restore.settle=1s","bundle=/b"]},
        "cgroup_paths":{"freezer":"/sys/fs/cgroup/freezer/c","memory":"/sys/fs/cgroup/memory/c"},
        "limit":18446744073709551615}"#;

    #[test]
    fn the_path_is_read_and_removed() {
        let (_dir, path) = record(STATE);
        let container = read(path.clone()).expect("valid");
        assert_eq!(container.init, pid(42));
        assert_eq!(
            container.network,
            Network::Path("/proc/9/task/10/ns/net".into())
        );
        assert_eq!(container.cgroup, Some("/sys/fs/cgroup/freezer/c".into()));
        assert_eq!(container.annotations["io.cedana.restore.settle"], "1s");
        assert_eq!(container.config, Some("/b/config.json".into()));
        container.remove_netns_path().expect("written");
        assert_eq!(read(path.clone()).expect("valid").network, Network::Own);
        let text = fs::read_to_string(path).expect("read");
        assert!(
            text.contains("18446744073709551615"),
            "numbers are kept exactly"
        );
    }

    #[test]
    fn host_network_and_unified_cgroup() {
        let (_dir, path) = record(
            r#"{"init_process_pid":1,"config":{"namespaces":[]},"cgroup_paths":{"":"/sys/fs/cgroup/c"}}"#,
        );
        let container = read(path).expect("valid");
        assert_eq!(container.network, Network::Host);
        assert_eq!(container.cgroup, Some("/sys/fs/cgroup/c".into()));
    }

    #[test]
    fn unknown_records_are_errors() {
        for text in ["", "[]", "{}", r#"{"init_process_pid":"x"}"#] {
            let (_dir, path) = record(text);
            assert!(matches!(read(path), Err(Error::Form { .. })), "{text}");
        }
    }
}
