//! The command line, read only as far as needed.
//!
//! runc (urfave/cli) and crun (argp) both take global flags, a verb, and the
//! verb's flags around a container ID. Whatever the verb is, the arguments
//! reach the wrapped runtime as they were given; this module only finds the
//! verb, and, for `checkpoint` and `restore`, what those two need to know. A
//! flag of theirs that is not known here is refused: with its meaning unknown,
//! neither the ID nor the effect of running it would be certain.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use cedana_contract::flags::{HOLD_NETNS, NETNS, OWN_VERSION, PAGE_SOURCE, PROGRESS_FD};

/// Global flags that take a value, of runc 1.1 to 1.4 and crun 1.x.
const GLOBAL_VALUES: [&str; 7] = [
    "root",
    "log",
    "log-format",
    "log-level",
    "criu",
    "rootless",
    "cgroup-manager",
];

/// Global flags without one.
const GLOBAL_SWITCHES: [&str; 2] = ["debug", "systemd-cgroup"];

/// Flags of `checkpoint` and `restore` that take a value.
const VERB_VALUES: [&str; 15] = [
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

/// Flags of `checkpoint` and `restore` without one.
const VERB_SWITCHES: [&str; 14] = [
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
];

/// The same, for the one that only `restore` has beside those.
const NO_PIVOT: &str = "no-pivot";

/// What `inspect` shows if it is not a checkpoint.
const RESTORES: &str = "--restores";

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Say our own version.
    OwnVersion,
    /// Make a network namespace and hold it, for this checkpoint.
    HoldNetns(Option<PathBuf>),
    /// Serve the memory of a container that is being restored.
    ServePages,
    /// Show what earlier restores took.
    Restores {
        /// For a program.
        json: bool,
    },
    /// Hand everything to the wrapped runtime.
    PassThrough,
    /// Take a checkpoint.
    Checkpoint(Request),
    /// Bring one back.
    Restore(Request),
    /// Show what is in one.
    Inspect(Inspect),
    /// Turn one of ours into a stock one.
    Unpack(Unpack),
}

/// A command line that is no checkpoint or restore of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error("{verb}: unknown flag {flag}; run the wrapped runtime directly if it is new there")]
    UnknownFlag { verb: &'static str, flag: String },
    #[error("{verb}: the flag {flag} needs a value")]
    MissingValue { verb: &'static str, flag: String },
    #[error("{verb}: {id:?} is not a container ID")]
    BadId { verb: &'static str, id: String },
    #[error("checkpoint: --progress-fd wants the number of an open file, not {value:?}")]
    BadFd { value: String },
    #[error("usage: cedana-runc inspect [--json] (DIR | --restores)")]
    InspectUsage,
    #[error("usage: cedana-runc unpack DIR [--to DIR2]")]
    UnpackUsage,
}

/// Global flags that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Globals {
    pub(crate) root: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_json: bool,
    pub(crate) criu: Option<PathBuf>,
    /// How many arguments come before the verb.
    before_verb: usize,
}

/// A checkpoint or restore as asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) globals: Globals,
    /// The arguments before the verb, as given.
    pub(crate) before: Vec<OsString>,
    /// `checkpoint` or `restore`.
    pub(crate) verb: &'static str,
    /// The arguments after the verb, as given, without those that are ours.
    pub(crate) after: Vec<OsString>,
    pub(crate) id: String,
    /// The file that is told how far the checkpoint is.
    pub(crate) progress_fd: Option<i32>,
    flags: Vec<(String, Option<OsString>)>,
}

/// An inspection as asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspect {
    /// The checkpoint.
    pub(crate) dir: PathBuf,
    /// For a program.
    pub(crate) json: bool,
}

impl Inspect {
    fn parse(args: &[OsString]) -> Result<Self, Error> {
        let mut dir = None;
        let mut json = false;
        let mut only_plain = false;
        for arg in args {
            match word(arg) {
                Word::Flag(name, None) if !only_plain && name == "json" => json = true,
                Word::End if !only_plain => only_plain = true,
                Word::Flag(..) if !only_plain => return Err(Error::InspectUsage),
                _ if dir.is_some() => return Err(Error::InspectUsage),
                _ => dir = Some(PathBuf::from(arg)),
            }
        }
        let dir = dir.ok_or(Error::InspectUsage)?;
        Ok(Self { dir, json })
    }
}

/// An unpacking as asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unpack {
    /// The checkpoint.
    pub(crate) dir: PathBuf,
    /// Where the stock one is to stand; in the same place if not said.
    pub(crate) to: Option<PathBuf>,
}

impl Unpack {
    fn parse(args: &[OsString]) -> Result<Self, Error> {
        let mut dir = None;
        let mut to = None;
        let mut only_plain = false;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match word(arg) {
                Word::Flag(name, value) if !only_plain && name == "to" && to.is_none() => {
                    let value = value.or_else(|| rest.next().cloned());
                    to = Some(PathBuf::from(value.ok_or(Error::UnpackUsage)?));
                }
                Word::End if !only_plain => only_plain = true,
                Word::Flag(..) if !only_plain => return Err(Error::UnpackUsage),
                _ if dir.is_some() => return Err(Error::UnpackUsage),
                _ => dir = Some(PathBuf::from(arg)),
            }
        }
        let dir = dir.ok_or(Error::UnpackUsage)?;
        Ok(Self { dir, to })
    }
}

impl Request {
    /// Whether a switch was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| name == flag)
    }

    /// The value of a flag; the last one counts.
    pub(crate) fn value(&self, flag: &str) -> Option<&OsStr> {
        self.flags
            .iter()
            .rev()
            .find(|(name, _)| name == flag)
            .and_then(|(_, value)| value.as_deref())
    }

    /// Where the images are; both runtimes default to `checkpoint` in the
    /// working directory.
    pub(crate) fn image_path(&self) -> PathBuf {
        match self.value("image-path") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => PathBuf::from("checkpoint"),
        }
    }

    /// Where CRIU writes its log.
    pub(crate) fn work_path(&self) -> PathBuf {
        match self.value("work-path") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => self.image_path(),
        }
    }

    /// The wrapped runtime's arguments: the caller's, with `extra` after the verb
    /// and `values` of our own for some flags, given or not.
    pub(crate) fn with_values(&self, extra: &[&str], values: &[(&str, &OsStr)]) -> Vec<OsString> {
        let mut args = self.before.clone();
        args.push(self.verb.into());
        args.extend(extra.iter().map(OsString::from));
        for (name, value) in values {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            args.push(flag);
        }
        let is_ours = |name: &str| values.iter().any(|(ours, _)| *ours == name);
        let mut rest = self.after.iter();
        while let Some(arg) = rest.next() {
            match word(arg) {
                Word::Flag(name, Some(_)) if is_ours(&name) => {}
                Word::Flag(name, None) if is_ours(&name) => {
                    rest.next();
                }
                // Of another flag the value is the next word, whatever it is.
                Word::Flag(name, None) if VERB_VALUES.contains(&name.as_str()) => {
                    args.push(arg.clone());
                    args.extend(rest.next().cloned());
                }
                Word::End => {
                    args.push(arg.clone());
                    args.extend(rest.by_ref().cloned());
                }
                _ => args.push(arg.clone()),
            }
        }
        args
    }
}

/// One argument, taken apart as both runtimes do: one dash or two, the value
/// after `=` or in the next argument.
enum Word {
    Flag(String, Option<OsString>),
    End,
    Plain,
}

fn word(arg: &OsStr) -> Word {
    let bytes = arg.as_bytes();
    let body = match bytes {
        b"--" => return Word::End,
        [b'-', b'-', rest @ ..] | [b'-', rest @ ..] if !rest.is_empty() => rest,
        _ => return Word::Plain,
    };
    let equals = body.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(at) => (
            &body[..at],
            Some(OsString::from_vec(body[at + 1..].to_vec())),
        ),
        None => (body, None),
    };
    Word::Flag(String::from_utf8_lossy(name).into_owned(), value)
}

/// Reads the global flags, up to the verb or the first flag that is unknown.
pub(crate) fn globals(args: &[OsString]) -> Globals {
    let mut globals = Globals::default();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let (name, value) = match word(arg) {
            Word::Flag(name, value) => (name, value),
            Word::End => {
                at += 1;
                break;
            }
            Word::Plain => break,
        };
        if GLOBAL_VALUES.contains(&name.as_str()) {
            let value = value.or_else(|| {
                at += 1;
                args.get(at).cloned()
            });
            if let Some(value) = value {
                globals.set(&name, value);
            }
        } else if !GLOBAL_SWITCHES.contains(&name.as_str()) {
            // --help, --version, or one that only the wrapped runtime knows.
            at = args.len();
            break;
        }
        at += 1;
    }
    globals.before_verb = at.min(args.len());
    globals
}

impl Globals {
    /// The container that is to be deleted, if that is what these arguments ask.
    pub(crate) fn deletes<'a>(&self, args: &'a [OsString]) -> Option<&'a OsStr> {
        let (verb, after) = args.get(self.before_verb..)?.split_first()?;
        let id = after.iter().find(|arg| matches!(word(arg), Word::Plain))?;
        // It becomes a path.
        (verb == "delete" && !id.as_bytes().contains(&b'/') && id != "..").then_some(id.as_os_str())
    }

    fn set(&mut self, name: &str, value: OsString) {
        let path = || (!value.is_empty()).then(|| PathBuf::from(&value));
        match name {
            "root" => self.root = path(),
            // crun also takes file:PATH, journald:ID and syslog:ID.
            "log" => {
                self.log = match value.to_str() {
                    Some(text) if text.starts_with("journald:") || text.starts_with("syslog:") => {
                        None
                    }
                    Some(text) if text.starts_with("file:") => Some(PathBuf::from(&text[5..])),
                    _ => path(),
                }
            }
            "log-format" => self.log_json = value == "json",
            "criu" => self.criu = path(),
            _ => {}
        }
    }
}

/// Decides what is to be done.
pub(crate) fn parse(args: &[OsString]) -> Result<Invocation, Error> {
    if let [only] = args {
        if only == OWN_VERSION {
            return Ok(Invocation::OwnVersion);
        }
        if only == PAGE_SOURCE {
            return Ok(Invocation::ServePages);
        }
    }
    match args {
        [hold] if hold == HOLD_NETNS => return Ok(Invocation::HoldNetns(None)),
        [hold, images] if hold == HOLD_NETNS => {
            return Ok(Invocation::HoldNetns(Some(images.into())));
        }
        _ => {}
    }
    let globals = globals(args);
    let (before, rest) = args.split_at(globals.before_verb);
    let Some((verb, after)) = rest.split_first() else {
        return Ok(Invocation::PassThrough);
    };
    let verb = match verb.to_str() {
        Some("checkpoint") => "checkpoint",
        Some("restore") => "restore",
        // Verbs of no OCI runtime.
        Some("inspect") if after.iter().any(|arg| arg == RESTORES) => {
            return restores(after);
        }
        Some("inspect") => return Inspect::parse(after).map(Invocation::Inspect),
        Some("unpack") => return Unpack::parse(after).map(Invocation::Unpack),
        _ => return Ok(Invocation::PassThrough),
    };
    let Some(arguments) = verb_arguments(verb, after)? else {
        return Ok(Invocation::PassThrough);
    };
    let request = Request {
        before: before.to_vec(),
        verb,
        after: arguments.theirs,
        id: arguments.id,
        progress_fd: arguments.progress_fd,
        flags: arguments.flags,
        globals,
    };
    Ok(match verb {
        "checkpoint" => Invocation::Checkpoint(request),
        _ => Invocation::Restore(request),
    })
}

/// `inspect --restores [--json]`.
fn restores(after: &[OsString]) -> Result<Invocation, Error> {
    let mut json = false;
    for arg in after {
        match arg.to_str() {
            Some(RESTORES) => {}
            Some("--json") => json = true,
            _ => return Err(Error::InspectUsage),
        }
    }
    Ok(Invocation::Restores { json })
}

/// What follows the verb, understood.
struct VerbArguments {
    id: String,
    flags: Vec<(String, Option<OsString>)>,
    progress_fd: Option<i32>,
    /// The arguments without those that are ours.
    theirs: Vec<OsString>,
}

/// Nothing if help is asked for, or if the ID or the value of one of the wrapped
/// runtime's flags is missing: that runtime answers with its own usage.
fn verb_arguments(verb: &'static str, args: &[OsString]) -> Result<Option<VerbArguments>, Error> {
    let mut flags = Vec::new();
    let mut progress_fd = None;
    let mut theirs = Vec::new();
    let mut id = None;
    let mut only_plain = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        theirs.push(arg.clone());
        let (name, value) = match word(arg) {
            Word::Flag(name, value) if !only_plain => (name, value),
            Word::End if !only_plain => {
                only_plain = true;
                continue;
            }
            _ => {
                id.get_or_insert(arg);
                continue;
            }
        };
        let shown = || format!("--{name}");
        if matches!(name.as_str(), "h" | "help" | "?" | "usage") {
            return Ok(None);
        }
        let ours = matches!(
            (verb, name.as_str()),
            ("checkpoint", PROGRESS_FD) | ("restore", NETNS)
        );
        if ours || VERB_VALUES.contains(&name.as_str()) {
            let in_next = value.is_none();
            let value = match value.or_else(|| rest.next().cloned()) {
                Some(value) => value,
                None if ours => {
                    return Err(Error::MissingValue {
                        verb,
                        flag: shown(),
                    });
                }
                // Podman tells by the runtime's own words whether it has the
                // flag (`restore --lsm-mount-context`, pkg/checkpoint/crutils).
                None => return Ok(None),
            };
            if ours {
                theirs.pop();
                if name == PROGRESS_FD {
                    progress_fd = Some(descriptor(&value)?);
                    continue;
                }
            } else if in_next {
                theirs.push(value.clone());
            }
            flags.push((long_name(name), Some(value)));
        } else if VERB_SWITCHES.contains(&name.as_str()) || name == NO_PIVOT {
            // urfave/cli takes --switch=false.
            if !matches!(
                value.as_deref().and_then(OsStr::to_str),
                Some("false" | "0" | "f" | "F" | "FALSE" | "False")
            ) {
                flags.push((long_name(name), None));
            }
        } else {
            return Err(Error::UnknownFlag {
                verb,
                flag: shown(),
            });
        }
    }
    let Some(id) = id else { return Ok(None) };
    match id.to_str() {
        // The ID becomes a path below the runtime's state directory.
        Some(id) if !id.is_empty() && !id.contains(['/', '\0']) && id != "." && id != ".." => {
            Ok(Some(VerbArguments {
                id: id.to_owned(),
                flags,
                progress_fd,
                theirs,
            }))
        }
        _ => Err(Error::BadId {
            verb,
            id: id.to_string_lossy().into_owned(),
        }),
    }
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

#[cfg(test)]
mod tests;
