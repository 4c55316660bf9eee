//! The OCI spec of a restored container.

use prost::Message;
use prost_types::Any;
use serde_json::Value;

use crate::checkpoints::{Failure, Kind};

/// The annotation by which the shim of cedana closes TCP connections.
const TCP: &str = "io.cedana.restore.tcp";

/// A container's spec, as containerd stores it: JSON, under the name of its type.
#[derive(Clone)]
pub(super) struct Spec {
    type_url: String,
    json: Value,
}

impl Spec {
    /// Reads the spec in a checkpoint.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn decode(data: &[u8]) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::new(
                Kind::Invalid,
                format!("the container's spec in the checkpoint is damaged: {why}"),
            )
        };
        let any = Any::decode(data).map_err(|error| wrong(error.to_string()))?;
        let json: Value =
            serde_json::from_slice(&any.value).map_err(|error| wrong(error.to_string()))?;
        match json.is_object() {
            true => Ok(Self {
                type_url: any.type_url,
                json,
            }),
            false => Err(wrong("it is no object".to_owned())),
        }
    }

    /// Moves it to a cgroup of its own: that of `old` would be the original's, which may
    /// still run.
    pub(super) fn rename(&mut self, old: Option<&str>, new: &str) {
        let path = &mut self.json["linux"]["cgroupsPath"];
        if let Some(renamed) = path.as_str().and_then(|path| cgroups_path(path, old, new)) {
            *path = renamed.into();
        } else if path.is_null() {
            // Indexing has added it.
            if let Some(linux) = self.json["linux"].as_object_mut() {
                linux.remove("cgroupsPath");
            }
        }
    }

    /// Has the shim of cedana close TCP connections.
    pub(super) fn close_tcp(&mut self) {
        if self.json["annotations"].is_null() {
            self.json["annotations"] = Value::Object(serde_json::Map::new());
        }
        self.json["annotations"][TCP] = "close".into();
    }

    /// Whether its first process has a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.json["process"]["terminal"] == true
    }

    /// The mount option that labels its root, as containerd's client adds it.
    pub(super) fn mount_label(&self) -> Option<String> {
        let label = self.json["linux"]["mountLabel"].as_str()?;
        (!label.is_empty()).then(|| format!("context={label:?}"))
    }

    pub(super) fn into_any(self) -> Any {
        Any {
            type_url: self.type_url,
            value: self.json.to_string().into_bytes(),
        }
    }
}

/// The same path for another container; `None` if it is not named after the old one.
///
/// ctr and nerdctl make `/NAMESPACE/ID`, and systemd's form is `SLICE:PREFIX:ID`. A
/// checkpoint by `ctr` does not say the ID, so there only the first form is certain.
fn cgroups_path(path: &str, old: Option<&str>, new: &str) -> Option<String> {
    let (before, last) = path.rsplit_once(['/', ':'])?;
    let named = match old {
        Some(old) => last == old,
        None => before
            .strip_prefix('/')
            .is_some_and(|name| !name.is_empty() && !name.contains(['/', ':'])),
    };
    let separator = path.get(before.len()..=before.len())?;
    named.then(|| format!("{before}{separator}{new}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_renamed_if_it_is_named_after_the_container() {
        for (path, old, renamed) in [
            ("/default/a", Some("a"), Some("/default/b")),
            ("/default/a", None, Some("/default/b")),
            ("/mine", Some("a"), None),
            ("/mine/of/group", None, None),
            ("/mine/of/a", Some("a"), Some("/mine/of/b")),
            (
                "system.slice:nerdctl:a",
                Some("a"),
                Some("system.slice:nerdctl:b"),
            ),
            ("system.slice:nerdctl:a", None, None),
            ("/team/group", Some("a"), None),
            ("", None, None),
        ] {
            let expected = renamed.map(str::to_owned);
            assert_eq!(cgroups_path(path, old, "b"), expected, "{path} {old:?}");
        }
    }

    fn spec(json: &str) -> Spec {
        let any = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: json.into(),
        };
        Spec::decode(&any.encode_to_vec()).unwrap_or_else(|failure| panic!("{failure}"))
    }

    #[test]
    fn nothing_else_of_a_spec_changes() {
        let mut changed = spec(r#"{"process":{"terminal":true},"linux":{}}"#);
        changed.rename(None, "b");
        assert!(changed.has_terminal());
        assert_eq!(changed.mount_label(), None);
        let any = changed.into_any();
        assert_eq!(any.value, br#"{"linux":{},"process":{"terminal":true}}"#);
    }

    #[test]
    fn connections_are_closed_by_an_annotation() {
        let mut changed = spec(r#"{"annotations":{"a":"b"}}"#);
        changed.close_tcp();
        let json = changed.json["annotations"].to_string();
        assert_eq!(json, r#"{"a":"b","io.cedana.restore.tcp":"close"}"#);
        let mut without = spec("{}");
        without.close_tcp();
        assert_eq!(without.json["annotations"][TCP], "close");
    }

    #[test]
    fn a_damaged_spec_is_an_error() {
        for data in [&b"\xff"[..], b""] {
            assert!(Spec::decode(data).is_err());
        }
    }
}
