//! Settings of Cedana for containerd: typed once, here, and trusted afterwards.
//!
//! A setting can come from four places. Each overrides the one before it:
//!
//! ```text
//! built-in default  <  /etc/cedana/config.toml  <  CEDANA_* environment  <  io.cedana.* annotations
//! ```
//!
//! The one idea: every setting is one row of one table ([`setting`]), which
//! says its TOML key, whether a container may choose it by annotation, and how
//! text becomes its value. The file, environment and annotation readers only
//! find text and look the row up, so a setting cannot exist in one layer and be
//! forgotten in another, and a name that no row has is an error with the place
//! where it stands and the nearest name that exists.
//!
//! ```
//! use cedana_config::Config;
//! use std::path::Path;
//!
//! let file = "[checkpoint]\nghost_limit = \"64MiB\"\n";
//! let config = Config::from_sources(
//!     Some((Path::new("config.toml"), file)),
//!     [("CEDANA_RESTORE_SETTLE".to_owned(), "50ms".to_owned())],
//! )?
//! .with_annotations([("io.cedana.checkpoint.tcp_established", "false")])?;
//! assert_eq!(config.checkpoint.ghost_limit, 64 << 20);
//! assert_eq!(config.restore.settle.as_millis(), 50);
//! assert!(!config.checkpoint.tcp_established);
//! # Ok::<(), cedana_config::Error>(())
//! ```

mod error;
mod file;
mod nearest;
mod setting;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cedana_contract::annotations::PREFIX as ANNOTATION_PREFIX;
pub use error::Error;
use error::Place;

/// Where the settings file is looked for when `CEDANA_CONFIG` names no other.
pub const DEFAULT_PATH: &str = "/etc/cedana/config.toml";

/// Environment variable that names another settings file.
pub const PATH_VARIABLE: &str = "CEDANA_CONFIG";

/// Environment variable that names the wrapped runtime, the same setting as
/// `runtime` in the file.
pub const RUNTIME_VARIABLE: &str = "CEDANA_RUNTIME";

const ENV_PREFIX: &str = "CEDANA_";

/// A settings file holds a dozen short lines. The bound keeps a path that was
/// mistyped to a disk image or a device from being read into memory.
const MAX_FILE: u64 = 1 << 20;

/// All settings. [`Default`] gives the built-in values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The OCI runtime that does everything but checkpoint and restore: a name
    /// looked up in `PATH`, or an absolute path.
    pub runtime: PathBuf,
    /// Directory in which the CRIU logs of failed operations are kept.
    pub log_dir: PathBuf,
    /// How many of those logs are kept; the oldest go first. 0 keeps none.
    pub log_keep: usize,
    /// How a checkpoint is taken.
    pub checkpoint: Checkpoint,
    /// How a checkpoint is brought back.
    pub restore: Restore,
}

/// How a checkpoint is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whether the container runs on after a checkpoint when the client doesn't
    /// say. Unset: it ends under Docker, whose `docker checkpoint create` ends
    /// it by default and says nothing to a runtime that is given by type; it
    /// runs on everywhere else.
    pub leave_running: Option<bool>,
    /// Which tasks that their checkpointing client paused run again when CRIU is
    /// done.
    pub resume_early: ResumeEarly,
    /// What becomes of a checkpoint that could never be restored.
    pub doubtful: Doubtful,
    /// Keep established TCP connections instead of refusing the checkpoint.
    pub tcp_established: bool,
    /// Carry file locks instead of refusing the checkpoint.
    pub file_locks: bool,
    /// Allow unix sockets whose other end is outside the container.
    pub ext_unix_sk: bool,
    /// Give open files that were unlinked but have another name a temporary
    /// name, so that they can be found again.
    pub link_remap: bool,
    /// Largest deleted but open file that is copied into a checkpoint, in bytes.
    pub ghost_limit: u64,
    /// How long CRIU may take to freeze the container. Whole seconds.
    pub timeout: Duration,
    /// How the container's memory is stored.
    pub compression: Compression,
    /// zstd's level.
    pub level: i32,
    /// What the buffers of a checkpoint may take, in bytes.
    pub memory: u64,
    /// Whether what CRIU writes may wait in memory that nobody else needs.
    pub spare_memory: bool,
}

/// What becomes of a checkpoint that could never be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Doubtful {
    /// Refused if it would end the container, which then goes on running. A
    /// checkpoint that leaves the container running costs nothing, so it is taken
    /// with a warning.
    #[default]
    Refuse,
    /// Taken with a warning, whether or not the container ends.
    Warn,
}

/// Which tasks that their checkpointing client paused run again as soon as CRIU is
/// done, before that client resumes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResumeEarly {
    /// None.
    Never,
    /// Those of which it is certain that nothing reads the container's files
    /// afterwards and that the checkpointing client made the pause.
    #[default]
    Certain,
    /// Those of `container.Checkpoint` as well, which `ctr container checkpoint`
    /// calls: no program that pauses a task for itself may call it then.
    Container,
}

/// How a container's memory is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// With zstd, unless a paused container would stand still for longer.
    Auto,
    /// As it is.
    None,
    /// In frames of zstd, which `zstd -d` turns back.
    Zstd,
}

/// How a checkpoint is brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Whether the container runs while its memory is still being read.
    pub mode: Mode,
    /// How many cores read it ahead of the container's own requests.
    pub prefetch_cores: Cores,
    /// What becomes of TCP connections that were established.
    pub tcp: Tcp,
    /// How long init is watched after CRIU's success before a restore counts as
    /// done. Zero looks once.
    pub settle: Duration,
    /// What the buffers of a restore may take, in bytes.
    pub memory: u64,
}

/// When a container's memory comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// While it runs already, wherever that can be.
    #[default]
    Lazy,
    /// Before it runs.
    Eager,
}

/// A number of processor cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// So many.
    Number(u16),
    /// So many of a hundred.
    Percent(u8),
}

impl Cores {
    /// How many of `all`: one at least.
    ///
    /// ```
    /// use cedana_config::Cores;
    ///
    /// assert_eq!(Cores::Percent(50).of(8), 4);
    /// assert_eq!(Cores::Percent(1).of(8), 1);
    /// assert_eq!(Cores::Number(16).of(8), 8);
    /// ```
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        let number = match self {
            Self::Number(number) => usize::from(number),
            Self::Percent(percent) => all * usize::from(percent) / 100,
        };
        number.clamp(1, all.max(1))
    }
}

/// What becomes of the TCP connections in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tcp {
    /// Kept if their addresses are there in the network that the container is
    /// restored into, else closed.
    #[default]
    Auto,
    /// Kept; where an address is missing, the restore fails.
    Keep,
    /// Closed: the application reads their end, and can't write.
    Close,
    /// A checkpoint with established connections is not restored.
    Refuse,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: PathBuf::from("runc"),
            log_dir: PathBuf::from("/var/log/cedana"),
            log_keep: 100,
            checkpoint: Checkpoint::default(),
            restore: Restore::default(),
        }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            leave_running: None,
            resume_early: ResumeEarly::Certain,
            doubtful: Doubtful::Refuse,
            tcp_established: true,
            file_locks: true,
            ext_unix_sk: true,
            link_remap: true,
            // CRIU's own limit is 1 MiB; deleted temporary files of databases
            // and build tools are commonly several times that.
            ghost_limit: 512 << 20,
            // CRIU's own is 10 s, which a loaded node passes with a few
            // thousand threads.
            timeout: Duration::from_secs(60),
            compression: Compression::Auto,
            // Lower ones take a tenth less of the processor and store text a
            // sixth and more larger, which costs the disk and every copy;
            // higher ones take half again as much for five in a hundred.
            level: 1,
            memory: 128 << 20,
            spare_memory: true,
        }
    }
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            mode: Mode::Lazy,
            // They run at the lowest priority: who else wants to run goes first.
            prefetch_cores: Cores::Percent(100),
            tcp: Tcp::Auto,
            // A process that cannot live (a sleep that came back as EINTR, a
            // wrong CPU feature) dies within its first time slices.
            settle: Duration::from_millis(20),
            memory: 128 << 20,
        }
    }
}

impl Config {
    /// Reads the settings file and this process' environment.
    ///
    /// The file is the one named by `CEDANA_CONFIG`, which must then exist, or
    /// else [`DEFAULT_PATH`], which may be missing.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown name, a wrong value.
    pub fn load() -> Result<Self, Error> {
        let file = file::read()?;
        Self::from_sources(
            file.as_ref()
                .map(|(path, text)| (path.as_path(), text.as_str())),
            process_environment(),
        )
    }

    /// The defaults, overridden by the text of a settings file, overridden by
    /// environment variables. Of variables with our prefix, those that can be
    /// meant as a setting must be one; others (`CEDANA_URL`) belong to other
    /// programs and are passed over.
    ///
    /// # Errors
    /// A file that cannot be parsed, an unknown name, a wrong value.
    pub fn from_sources(
        file: Option<(&Path, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let mut config = Self::default();
        if let Some((path, text)) = file {
            file::apply(&mut config, path, text)?;
        }
        // Sorted, so that of two faults the same one is reported every time.
        let env: BTreeMap<_, _> = env.into_iter().collect();
        for (name, text) in &env {
            let Some(key) = name.strip_prefix(ENV_PREFIX) else {
                continue;
            };
            let place = Place::Environment;
            let setting = match setting::by_variable(key) {
                Some(setting) => setting,
                None if !setting::is_meant(key) => continue,
                None => return Err(Error::unknown(place, name, setting::variables())),
            };
            setting
                .set(&mut config, text)
                .map_err(|why| Error::value(place, name, why))?;
        }
        Ok(config)
    }

    /// Applies a container's annotations on top. Annotations without our prefix
    /// are passed over.
    ///
    /// # Errors
    /// An `io.cedana.` annotation that is unknown, has a wrong value, or names a
    /// setting that belongs to the node: a container must not choose, for
    /// example, which program runs as root on its behalf.
    pub fn with_annotations<'a>(
        mut self,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
        for (name, text) in annotations {
            let Some(key) = name.strip_prefix(ANNOTATION_PREFIX) else {
                continue;
            };
            let place = Place::Annotation;
            let setting = setting::by_key(key)
                .ok_or_else(|| Error::unknown(place.clone(), name, setting::annotations()))?;
            if !setting.annotation {
                return Err(Error::NotByAnnotation {
                    name: name.to_owned(),
                    key: setting.key,
                });
            }
            setting
                .set(&mut self, text)
                .map_err(|why| Error::value(place, name, why))?;
        }
        Ok(self)
    }

    /// Only the wrapped runtime, for verbs that have no business with any other
    /// setting: a mistake in `[checkpoint]` must not keep a container from being
    /// killed or deleted. Not even one that makes the file no TOML, as long as
    /// the line itself is right.
    ///
    /// # Errors
    /// A file that can't be read, or a `runtime` that is no usable path.
    pub fn load_runtime() -> Result<PathBuf, Error> {
        if let Some(text) = std::env::var_os(RUNTIME_VARIABLE) {
            return value::program(&text.to_string_lossy())
                .map_err(|why| Error::value(Place::Environment, RUNTIME_VARIABLE, why));
        }
        let mut config = Self::default();
        if let Some((path, text)) = file::read()? {
            match file::apply_only(&mut config, &path, &text, "runtime") {
                Err(Error::Syntax { .. }) => {
                    let line = file::top_level_line(&text, "runtime").unwrap_or_default();
                    file::apply_only(&mut config, &path, line, "runtime")?;
                }
                applied => applied?,
            }
        }
        Ok(config.runtime)
    }
}

/// The variables with our prefix. Text that is not UTF-8 is taken with
/// replacement characters, so it ends in a wrong-value error and no panic.
fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, text)| {
        let name = name.into_string().ok()?;
        name.starts_with(ENV_PREFIX)
            .then(|| (name, text.to_string_lossy().into_owned()))
    })
}

#[cfg(test)]
mod tests;
