//! `checkpoint` and `restore`: their flags and the container's ID.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use cedana_contract::flags::{ARCHIVE_DIR, ARCHIVE_NAME, NETNS, PROGRESS_FD};
use cedana_contract::id::ContainerId;

use super::argument::Argument;
use super::error::Error;
use super::globals::Globals;
use super::paths::{self, BundlePath, ImagePath};

/// Flags that take a value.
const WITH_VALUE: [&str; 15] = [
    "image-path",
    "work-path",
    "parent-path",
    "status-fd",
    "page-server",
    "manage-cgroups-mode",
    "empty-ns",
    "lsm-profile",
    "lsm-mount-context",
    "console-socket",
    "bundle",
    "b",
    "pid-file",
    "preserve-fds",
    "network-lock",
];

/// Flags without a value; `no-pivot` is of `restore` alone.
const SWITCHES: [&str; 15] = [
    "leave-running",
    "tcp-established",
    "tcp-skip-in-flight",
    "tcp-close",
    "link-remap",
    "ext-unix-sk",
    "shell-job",
    "lazy-pages",
    "file-locks",
    "pre-dump",
    "auto-dedup",
    "detach",
    "d",
    "no-subreaper",
    "no-pivot",
];

/// Flags of a `checkpoint` that is not one whole by itself, or is a directory.
const NOT_OF_ARCHIVES: [&str; 6] = [
    "image-path",
    "parent-path",
    "pre-dump",
    "lazy-pages",
    "page-server",
    "auto-dedup",
];

/// A parsed `checkpoint` or `restore`.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) globals: Globals,
    /// The arguments before the verb, unchanged.
    pub(crate) before: Vec<OsString>,
    /// `checkpoint` or `restore`.
    pub(crate) verb: &'static str,
    /// The arguments after the verb, unchanged, without our own flags.
    pub(crate) after: Vec<OsString>,
    pub(crate) id: ContainerId,
    /// The checkpoint's directory. With `--archive-dir` that one; a `restore` also takes
    /// an archive.
    pub(crate) images: ImagePath,
    /// The bundle of a `restore`.
    pub(crate) bundle: BundlePath,
    /// The descriptor that progress is written to.
    pub(crate) progress_fd: Option<i32>,
    flags: Vec<(String, Option<OsString>)>,
}

impl Request {
    /// `None` if help is asked for, or if the ID or the value of one of the wrapped
    /// runtime's flags is missing: that runtime answers with its own usage.
    ///
    /// # Errors
    /// A flag that is unknown here, a wrong value of one of our own flags, or an ID
    /// that is no path component.
    pub(super) fn parse(
        globals: Globals,
        before: &[OsString],
        verb: &'static str,
        args: &[OsString],
    ) -> Result<Option<Self>, Error> {
        let mut flags = Vec::new();
        let mut progress_fd = None;
        let mut after = Vec::new();
        let mut id = None;
        let mut only_plain = false;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            after.push(arg.clone());
            let (name, value) = match Argument::of(arg) {
                Argument::Flag(name, value) if !only_plain => (name, value),
                Argument::EndOfFlags if !only_plain => {
                    only_plain = true;
                    continue;
                }
                _ => {
                    id.get_or_insert(arg);
                    continue;
                }
            };
            let flag = || format!("--{name}");
            if matches!(name.as_str(), "h" | "help" | "?" | "usage") {
                return Ok(None);
            }
            let is_own = matches!(
                (verb, name.as_str()),
                ("checkpoint", PROGRESS_FD | ARCHIVE_DIR | ARCHIVE_NAME) | ("restore", NETNS)
            );
            if is_own || WITH_VALUE.contains(&name.as_str()) {
                let is_in_next = value.is_none();
                let value = match value.or_else(|| rest.next().cloned()) {
                    Some(value) => value,
                    None if is_own => return Err(Error::MissingValue { verb, flag: flag() }),
                    // Podman finds out by the runtime's own error text whether it has
                    // the flag (`restore --lsm-mount-context`, pkg/checkpoint/crutils).
                    None => return Ok(None),
                };
                if is_own {
                    after.pop();
                    if name == PROGRESS_FD {
                        progress_fd = Some(descriptor(&value)?);
                        continue;
                    }
                } else if is_in_next {
                    after.push(value.clone());
                }
                flags.push((long_name(name), Some(value)));
            } else if SWITCHES.contains(&name.as_str()) {
                if !is_false(value.as_deref()) {
                    flags.push((long_name(name), None));
                }
            } else {
                return Err(Error::UnknownFlag { verb, flag: flag() });
            }
        }
        let Some(id) = id else { return Ok(None) };
        let id = id
            .to_str()
            .and_then(ContainerId::parse)
            .ok_or_else(|| Error::BadId {
                verb,
                id: id.to_string_lossy().into_owned(),
            })?;
        refuse_beside_archive(&flags)?;
        let value = |flag: &str| value_of(&flags, flag);
        Ok(Some(Self {
            images: ImagePath::of(value(ARCHIVE_DIR).or_else(|| value("image-path"))),
            bundle: BundlePath::of(value("bundle")),
            globals,
            before: before.to_vec(),
            verb,
            after,
            id,
            progress_fd,
            flags,
        }))
    }

    /// Whether a switch was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| name == flag)
    }

    /// The value of a flag; the last one counts.
    pub(crate) fn value(&self, flag: &str) -> Option<&OsStr> {
        value_of(&self.flags, flag)
    }

    /// The beginning of the archive's name, if the checkpoint becomes one.
    pub(crate) fn archive_name(&self) -> Option<String> {
        self.value(ARCHIVE_DIR)?;
        let name = self.value(ARCHIVE_NAME).filter(|name| !name.is_empty());
        Some(name.map_or_else(
            || self.id.to_string(),
            |name| name.to_string_lossy().into_owned(),
        ))
    }

    /// The directory that CRIU writes its log to.
    pub(crate) fn work_path(&self) -> PathBuf {
        match self.value("work-path") {
            Some(path) if !path.is_empty() => paths::absolute(Some(path), ""),
            _ => self.images.to_path_buf(),
        }
    }

    /// The wrapped runtime's arguments: the caller's, with `extra` after the verb,
    /// and with `values` in place of the caller's values for these flags.
    pub(crate) fn with_values(&self, extra: &[&str], values: &[(&str, &OsStr)]) -> Vec<OsString> {
        let mut args = self.before.clone();
        args.push(self.verb.into());
        args.extend(extra.iter().map(OsString::from));
        for (name, value) in values {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            args.push(flag);
        }
        let is_replaced = |name: &str| values.iter().any(|(replaced, _)| *replaced == name);
        let mut rest = self.after.iter();
        while let Some(arg) = rest.next() {
            match Argument::of(arg) {
                Argument::Flag(name, Some(_)) if is_replaced(&name) => {}
                Argument::Flag(name, None) if is_replaced(&name) => {
                    rest.next();
                }
                // The next argument is this flag's value, even if it looks like a flag.
                Argument::Flag(name, None) if WITH_VALUE.contains(&name.as_str()) => {
                    args.push(arg.clone());
                    args.extend(rest.next().cloned());
                }
                Argument::EndOfFlags => {
                    args.push(arg.clone());
                    args.extend(rest.by_ref().cloned());
                }
                _ => args.push(arg.clone()),
            }
        }
        args
    }
}

fn value_of<'a>(flags: &'a [(String, Option<OsString>)], flag: &str) -> Option<&'a OsStr> {
    flags
        .iter()
        .rev()
        .find(|(name, _)| name == flag)
        .and_then(|(_, value)| value.as_deref())
}

/// Refuses flags that make no sense together with those of an archive.
fn refuse_beside_archive(flags: &[(String, Option<OsString>)]) -> Result<(), Error> {
    let has = |flag: &str| flags.iter().any(|(name, _)| name == flag);
    match (has(ARCHIVE_DIR), has(ARCHIVE_NAME)) {
        (false, true) => Err(Error::NoArchiveDir),
        (true, _) if value_of(flags, ARCHIVE_DIR).is_some_and(OsStr::is_empty) => {
            Err(Error::MissingValue {
                verb: "checkpoint",
                flag: format!("--{ARCHIVE_DIR}"),
            })
        }
        (true, _) => match NOT_OF_ARCHIVES.into_iter().find(|flag| has(flag)) {
            Some(flag) => Err(Error::BesideArchive { flag }),
            None => Ok(()),
        },
        (false, false) => Ok(()),
    }
}

/// Whether a switch is turned off: urfave/cli takes `--switch=false`.
fn is_false(value: Option<&OsStr>) -> bool {
    matches!(
        value.and_then(OsStr::to_str),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False")
    )
}

fn descriptor(value: &OsStr) -> Result<i32, Error> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|fd| *fd >= 0)
        .ok_or_else(|| Error::BadFd {
            value: value.to_string_lossy().into_owned(),
        })
}

fn long_name(name: String) -> String {
    match name.as_str() {
        "b" => "bundle".to_owned(),
        "d" => "detach".to_owned(),
        _ => name,
    }
}
