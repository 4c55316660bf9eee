//! An OCI configuration as JSON: look-ups in it, and the replacement of its file.
//!
//! It stays a `Value`, because config.json is written back with all fields, and because
//! oci-spec's types would reject a configuration for fields that only the runtime reads
//! (and bring derive_builder, getset and regex along).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

/// The network namespace's entry of an OCI configuration.
pub(crate) fn netns_entry(spec: &Value) -> Option<&Value> {
    spec.pointer("/linux/namespaces")?
        .as_array()?
        .iter()
        .find(|entry| is_network(entry))
}

/// The network namespace's entry, to be changed.
pub(crate) fn netns_entry_mut(spec: &mut Value) -> Option<&mut Value> {
    spec.pointer_mut("/linux/namespaces")?
        .as_array_mut()?
        .iter_mut()
        .find(|entry| is_network(entry))
}

fn is_network(entry: &Value) -> bool {
    entry.is_object() && entry.get("type").and_then(Value::as_str) == Some("network")
}

/// Whether a mount of an OCI configuration is a bind mount.
pub(crate) fn is_bind(mount: &Value) -> bool {
    mount.get("type").and_then(Value::as_str) == Some("bind")
        || has_option(mount, "bind")
        || has_option(mount, "rbind")
}

/// Whether a mount is a bind mount that includes the mounts below its source.
pub(crate) fn is_recursive_bind(mount: &Value) -> bool {
    has_option(mount, "rbind")
}

fn has_option(mount: &Value, wanted: &str) -> bool {
    let options = mount.get("options").and_then(Value::as_array);
    options.is_some_and(|options| options.iter().any(|option| option == wanted))
}

/// The annotations of an OCI configuration.
pub(crate) fn annotations(spec: &Value) -> BTreeMap<String, String> {
    spec.get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Replaces a file's content atomically, keeping its mode.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file()
        .set_permissions(fs::metadata(path)?.permissions())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
/// The largest configuration that is read for a checkpoint. Real ones have some ten
/// kilobytes.
const MAX_SPEC: u64 = 4 << 20;

/// Reads a container's configuration. `None` if that fails: a checkpoint is taken
/// without it.
pub(crate) fn read_bounded(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_SPEC)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}
