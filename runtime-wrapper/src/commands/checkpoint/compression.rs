//! Decides whether a checkpoint's memory is compressed.
//!
//! A container that its client paused stays paused until the checkpoint is stored,
//! and, if containerd packs it, until it is packed. Compressing 1 GiB takes up to 4
//! seconds of processor time, and packing the bytes that it saves takes 1.3 seconds on
//! one core. So compression shortens the pause if cores are idle, and prolongs it if
//! none are. Memory that containerd packs during the pause is therefore compressed only
//! on idle cores.

use std::thread;

use cedana_checkpoint::format::pages::Compression;
use cedana_config::{Compression as Setting, Config};

use crate::host::procfs;

/// The idle cores with which compression ends with CRIU's dump, or soon after it: CRIU
/// uses one of them and writes 1 GiB in 0.6 seconds.
const IDLE_CORES: usize = 4;

/// The compression of the pages. `paused_for_packing` says that the container is paused
/// until containerd has packed them.
pub(super) fn choose(config: &Config, paused_for_packing: bool) -> Compression {
    let zstd = Compression::Zstd {
        level: config.checkpoint.level,
    };
    match config.checkpoint.compression {
        Setting::None => Compression::None,
        Setting::Zstd => zstd,
        Setting::Auto if paused_for_packing && idle_cores() < IDLE_CORES => Compression::None,
        Setting::Auto => zstd,
    }
}

/// The number of our cores that no process uses.
fn idle_cores() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(procfs::running_threads().unwrap_or(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(compression: Setting) -> Config {
        let mut config = Config::default();
        config.checkpoint.compression = compression;
        config
    }

    #[test]
    fn explicit_settings_ignore_the_pause() {
        for paused_for_packing in [false, true] {
            let none = choose(&config(Setting::None), paused_for_packing);
            assert_eq!(none, Compression::None);
            let zstd = choose(&config(Setting::Zstd), paused_for_packing);
            assert_eq!(zstd, Compression::Zstd { level: 1 });
        }
        let auto = choose(&config(Setting::Auto), false);
        assert_eq!(auto, Compression::Zstd { level: 1 });
    }
}
