//! The manifest of a checkpoint: what it is of, and how it was taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use cedana_checkpoint::format::manifest::{self, Cost, Entry, Key, Machine, Manifest, Versions};
use cedana_checkpoint::format::pages::Compression;
use cedana_contract::files;
use serde_json::Value;

use crate::commands::checkpoint::prepared::Prepared;
use crate::commands::error::Error;

/// Annotations that hold the name of a container's image (containerd's CRI, CRI-O).
const IMAGE_NAMES: [&str; 2] = [
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
];

/// The manifest of a checkpoint with these files.
pub(super) fn manifest(
    prepared: &Prepared<'_>,
    compression: Compression,
    files: Vec<Entry>,
) -> Result<Manifest, Error> {
    let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let Prepared {
        request,
        criu,
        runtime_version,
        container,
        spec,
        ..
    } = prepared;
    Ok(Manifest {
        format: Manifest::format_of(&files),
        created: created.map_or(0, |since| since.as_secs()),
        files,
        parent: None,
        machine: Machine::here().map_err(|source| Error::Machine {
            id: request.id.clone(),
            source,
        })?,
        versions: Versions {
            cedana: env!("CARGO_PKG_VERSION").to_owned(),
            criu: criu.to_string(),
            runtime: runtime_version
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        },
        container: manifest::Container {
            id: request.id.to_string(),
            image: IMAGE_NAMES
                .iter()
                .find_map(|name| container.annotations.get(*name).cloned()),
            spec: spec.clone(),
        },
        process: None,
        options: options(prepared, compression),
        cost: Cost::default(),
        store: None,
        signature: None,
    })
}

/// Signs a manifest with the node's key, if the node has one.
pub(super) fn sign(manifest: &mut Manifest, prepared: &Prepared<'_>) {
    let signed = Key::read(Path::new(files::KEY)).map_err(|error| error.to_string());
    let signed = signed.and_then(|key| match key {
        Some(key) => manifest.sign(&key).map_err(|error| error.to_string()),
        None => Ok(()),
    });
    if let Err(error) = signed {
        let id = &prepared.request.id;
        prepared.reporter.quiet_warning(&format!(
            "the checkpoint of container {id} is not signed: {error}"
        ));
    }
}

/// The options of the dump, by the names of settings and flags.
fn options(prepared: &Prepared<'_>, compression: Compression) -> BTreeMap<String, Value> {
    let Prepared {
        request,
        config,
        kind,
        ..
    } = prepared;
    let settings = &config.checkpoint;
    let flag = |name: &'static str, setting: bool| {
        (
            name,
            Value::from(setting || request.has(&name.replace('_', "-"))),
        )
    };
    let mut options = vec![
        flag("tcp_established", settings.tcp_established),
        flag("file_locks", settings.file_locks),
        flag("ext_unix_sk", settings.ext_unix_sk),
        flag("link_remap", settings.link_remap),
        flag("shell_job", false),
        ("ghost_limit", Value::from(settings.ghost_limit)),
        ("leave_running", Value::from(!kind.ends)),
    ];
    match compression {
        Compression::None => options.push(("compression", Value::from("none"))),
        Compression::Zstd { level } => options.extend([
            ("compression", Value::from("zstd")),
            ("level", Value::from(level)),
        ]),
    }
    options
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
