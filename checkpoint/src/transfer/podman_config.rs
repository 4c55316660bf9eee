//! `config.dump` and `spec.dump`: the container that Podman creates to restore into.
//!
//! Of an imported archive they are those of its engine. Of another checkpoint the OCI
//! configuration is the bundle's config.json, which the manifest has, and `config.dump` is
//! made up (libpod, `ContainerConfig`): Podman itself keeps such a file of its own
//! containers alone. Podman creates the file system from an image, which it knows by name
//! and by ID.

use std::io::Read;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::engine_files::{CONFIG, SPEC, stored_name};
use super::error::{Error, read};
use super::podman::PodmanOptions;
use super::source::Source;
use crate::format::manifest::Manifest;
use crate::images::Images;
use crate::output::timestamp;

/// The largest configuration. Real ones have some ten KiB.
pub(super) const MAX_CONFIG: u64 = 16 << 20;

/// The annotation with the engine's name.
const MANAGER: &str = "io.container.manager";

/// The runtime of containers whose checkpoint names none.
const RUNTIME: &str = "runc";

/// `config.dump`.
///
/// # Errors
/// It is no container's, or Podman needs more than is known.
pub(super) fn config(
    source: &Source,
    manifest: &Manifest,
    options: &PodmanOptions,
) -> Result<Vec<u8>, Error> {
    let failed = |why: &str| Error::Podman {
        path: source.path().to_owned(),
        why: why.to_owned(),
    };
    if manifest.process.is_some() {
        return Err(failed(
            "it is a checkpoint of a process, and Podman restores containers; export it without --format",
        ));
    }
    let theirs = match engine_file(source, CONFIG)? {
        Some(text) => match serde_json::from_slice(&text) {
            Ok(Value::Object(theirs)) => Some(theirs),
            _ => return Err(failed("its config.dump is no JSON object; import it again")),
        },
        None => None,
    };
    let is_podmans = theirs.as_ref().is_some_and(|theirs| {
        theirs.contains_key("rootfsImageID") || theirs.contains_key("rootfs")
    });
    let mut config = match (theirs, is_podmans) {
        (Some(theirs), true) => theirs,
        (theirs, _) => {
            let spec = spec_value(source, manifest, options)?;
            let mut config = made_up(manifest, &spec).map_err(failed)?;
            // CRI-O and containerd have names of their own for the same.
            for (key, value) in theirs.unwrap_or_default() {
                if key == "rootfsImageRef"
                    && let Some(id) = value.as_str().and_then(image_id)
                {
                    config.insert("rootfsImageID".to_owned(), id.into());
                }
                if ["id", "name", "rootfsImageName"].contains(&&*key) && value != "" {
                    config.insert(key, value);
                }
            }
            config
        }
    };
    let given = [
        ("name", &options.name),
        ("rootfsImageName", &options.image),
        ("runtime", &options.runtime),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            config.insert(key.to_owned(), value.clone().into());
        }
    }
    if let Some(id) = &options.image_id {
        let id = image_id(id).ok_or_else(|| {
            failed("the ID of the image is not 64 hexadecimal digits; `podman images --no-trunc` shows it")
        })?;
        config.insert("rootfsImageID".to_owned(), id.into());
    }
    let has = |key: &str| config.get(key).is_some_and(|value| value != "");
    let has_image = has("rootfsImageName") && has("rootfsImageID");
    if !has("rootfs") && !has_image {
        return Err(failed(
            "Podman creates the container from an image, and the checkpoint does not say which; give --image NAME and --image-id ID (`podman images --no-trunc` shows both)",
        ));
    }
    let text = serde_json::to_vec_pretty(&Value::Object(config));
    text.map_err(|error| failed(&error.to_string()))
}

/// `spec.dump`.
///
/// # Errors
/// It is not known.
pub(super) fn spec(
    source: &Source,
    manifest: &Manifest,
    options: &PodmanOptions,
) -> Result<Vec<u8>, Error> {
    if options.spec.is_none()
        && let Some(text) = engine_file(source, SPEC)?
    {
        return Ok(text);
    }
    let mut spec = spec_value(source, manifest, options)?;
    // Podman sets it, and checkpointctl recognizes the format by it.
    if let Some(spec) = spec.as_object_mut() {
        let annotations = spec.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(MANAGER.to_owned(), "libpod".into());
        }
    }
    serde_json::to_vec_pretty(&spec).map_err(|error| Error::Podman {
        path: source.path().to_owned(),
        why: error.to_string(),
    })
}

fn spec_value(
    source: &Source,
    manifest: &Manifest,
    options: &PodmanOptions,
) -> Result<Value, Error> {
    let known = options
        .spec
        .clone()
        .or_else(|| manifest.container.spec.clone());
    known.ok_or_else(|| Error::Podman {
        path: source.path().to_owned(),
        why: "it has no OCI configuration of its container, as a stock runtime leaves none; give --bundle DIR, the directory with its config.json".to_owned(),
    })
}

/// One of the engine's files; `None` if there is none.
fn engine_file(source: &Source, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let name = stored_name(path);
    if !source.contents.directory.contains_key(&name) {
        return Ok(None);
    }
    let from = source.path().join(&name);
    let mut text = Vec::new();
    let content = source.contents.image(&name).map_err(read(&from))?;
    let mut content = content.take(MAX_CONFIG);
    content.read_to_end(&mut text).map_err(read(&from))?;
    Ok(Some(text))
}

/// The configuration of a container that is not Podman's.
///
/// Podman makes its own /dev/shm and files in /etc, in place of those of the OCI
/// configuration (libpod, `setupContainer`). CRIU needs what the images have as bind mounts,
/// and nothing else: a /dev/shm that is a mount of its own is in the images.
fn made_up(manifest: &Manifest, spec: &Value) -> Result<Map<String, Value>, &'static str> {
    let namespaces = spec["linux"]["namespaces"].as_array();
    let has = |kind: &str| {
        namespaces.is_some_and(|all| all.iter().any(|namespace| namespace["type"] == kind))
    };
    if has("user") {
        return Err(
            "its container has a user namespace, whose mapping Podman chooses itself; restore it with the engine that ran it",
        );
    }
    let mounts = spec["mounts"].as_array();
    let binds = |path: &str| {
        let is_bind = |mount: &Value| {
            let options = mount["options"].as_array();
            let has = |name: &str| options.is_some_and(|all| all.iter().any(|one| one == name));
            mount["destination"] == path && (mount["type"] == "bind" || has("bind") || has("rbind"))
        };
        mounts.is_some_and(|all| all.iter().any(is_bind))
    };
    let created = i64::try_from(manifest.created).ok();
    let created = created.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let created = timestamp::rfc3339(created.unwrap_or(OffsetDateTime::UNIX_EPOCH));
    let container = &manifest.container;
    let id = match is_id(&container.id) {
        true => container.id.clone(),
        // Podman's IDs have 64 digits, and runc's any form.
        false => blake3::hash(container.id.as_bytes()).to_hex().to_string(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = container.id.chars().filter(|c| plain(*c)).collect();
    let name = match name.trim_start_matches(['.', '_', '-']) {
        "" => &id,
        name => name,
    };
    let config = json!({
        "id": id,
        "name": name,
        "rootfsImageName": container.image.clone().unwrap_or_default(),
        "rootfsImage": container.image.clone().unwrap_or_default(),
        "idMappingsOptions": {"HostUIDMapping": true, "HostGIDMapping": true},
        "NoShm": !binds("/dev/shm"),
        "NOShmShare": !binds("/dev/shm"),
        "shmSize": 65_536_000,
        "createNetNS": has("network"),
        "useImageResolvConf": !binds("/etc/resolv.conf"),
        "useImageHosts": !binds("/etc/hosts"),
        "useImageHostname": !binds("/etc/hostname"),
        "stopSignal": 15,
        "stopTimeout": 10,
        "logDriver": "k8s-file",
        "runtime": RUNTIME,
        "createdTime": created,
        "checkpointedTime": created,
    });
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}

/// An image's ID without its algorithm.
fn image_id(text: &str) -> Option<String> {
    let id = text.strip_prefix("sha256:").unwrap_or(text);
    is_id(id).then(|| id.to_owned())
}

fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}
