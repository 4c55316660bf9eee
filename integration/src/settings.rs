//! The machine's settings file.

use std::fs;

/// `/etc/cedana/config.toml`, removed when dropped. All containers of the instance
/// are affected, so a story that writes it must run alone in its program.
pub struct Settings(());

impl Settings {
    /// Its path.
    pub const PATH: &'static str = "/etc/cedana/config.toml";

    /// Writes it.
    #[track_caller]
    pub fn write(text: &str) -> Self {
        let written = fs::create_dir_all("/etc/cedana").and_then(|()| fs::write(Self::PATH, text));
        written.unwrap_or_else(|e| panic!("{}: {e}", Self::PATH));
        Self(())
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::PATH);
    }
}
