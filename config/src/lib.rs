//! Typed settings of Cedana for containerd.
//!
//! A setting can come from four layers. Each overrides the one before it:
//!
//! ```text
//! built-in default  <  /etc/cedana/config.toml  <  CEDANA_* environment  <  io.cedana.* annotations
//! ```
//!
//! The command `cedana` has one more, a user's own file ([`user`](Config::for_user)),
//! between the settings file and the environment.
//!
//! Every setting is one row of a table ([`setting`]): its TOML key, whether a
//! container may choose it by annotation or only turn it down, and its parser. All layers look names up
//! in that table, so no layer can lack a setting. An unknown name is an error that
//! says where the name is and suggests the most similar known one.
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
//! .with_annotations([("io.cedana.checkpoint.ghost_limit", "1GiB")], |exceeded| {
//!     println!("{exceeded}")
//! })?;
//! assert_eq!(config.checkpoint.ghost_limit, 64 << 20);
//! assert_eq!(config.restore.settle.as_millis(), 50);
//! # Ok::<(), cedana_config::Error>(())
//! ```

mod error;
mod file;
mod layers;
mod limit;
mod setting;
mod settings;
mod shown;
mod suggestion;
mod text;
mod user;
mod value;

use cedana_contract::annotations::PREFIX as ANNOTATION_PREFIX;
pub use error::Error;
pub use limit::Exceeded;
pub use settings::{
    Accept, Check, Checkpoint, Compression, Config, ConfigAnnotation, Cores, Criu, Daemon,
    Doubtful, Mode, Restore, ResumeEarly, SharedStorage, Storage, Store, Tcp,
};
pub use shown::{Shown, Source};
pub use user::USER_FILE;

/// Path of the settings file if `CEDANA_CONFIG` names no other.
pub const DEFAULT_PATH: &str = "/etc/cedana/config.toml";

/// Environment variable that names another settings file.
pub const PATH_VARIABLE: &str = "CEDANA_CONFIG";

/// Environment variable that names the wrapped runtime, the same setting as
/// `runtime` in the file.
pub const RUNTIME_VARIABLE: &str = "CEDANA_RUNTIME";

const ENV_PREFIX: &str = "CEDANA_";

/// Size limit of the settings file, which holds a dozen short lines. It keeps a
/// disk image or a device behind a mistyped path from being read into memory.
const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests;
