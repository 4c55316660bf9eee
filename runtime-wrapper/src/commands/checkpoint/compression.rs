//! Whether a checkpoint's memory is compressed.
//!
//! A container that its client paused stands still until the checkpoint is
//! stored, and, if containerd packs it, until it is packed. Per GiB compressing
//! takes up to 4 seconds of processor time, and the packing of what it saves 1.3
//! on one core: with idle cores the container stands still for a shorter time than
//! without compression, and without idle cores for a longer time. So memory that
//! containerd packs meanwhile is compressed only on idle cores.

use std::fs;
use std::thread;

use cedana_checkpoint::format::pages::Compression;
use cedana_config::{Compression as Setting, Config};

/// Idle cores with which compressing ends with CRIU's dump, or soon after it: CRIU
/// takes one of them and writes 1 GiB in 0.6 seconds.
const IDLE_CORES: usize = 4;

/// How the pages are stored. `packed_meanwhile` says that the container stands still
/// until containerd has packed them.
pub(super) fn choose(config: &Config, packed_meanwhile: bool) -> Compression {
    let zstd = Compression::Zstd {
        level: config.checkpoint.level,
    };
    match config.checkpoint.compression {
        Setting::None => Compression::None,
        Setting::Zstd => zstd,
        Setting::Auto if packed_meanwhile && idle_cores() < IDLE_CORES => Compression::None,
        Setting::Auto => zstd,
    }
}

/// How many of our cores no process uses.
fn idle_cores() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    cores.saturating_sub(running(&loads).unwrap_or(cores))
}

/// How many threads run or wait for a core, but for the one that asks:
/// `/proc/loadavg` is "0.20 0.18 0.12 1/80 11206" (proc(5)).
fn running(loads: &str) -> Option<usize> {
    let (running, _) = loads.split(' ').nth(3)?.split_once('/')?;
    running.parse::<usize>().ok()?.checked_sub(1)
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
    fn a_setting_counts_whatever_the_container_waits_for() {
        for packed_meanwhile in [false, true] {
            let none = choose(&config(Setting::None), packed_meanwhile);
            assert_eq!(none, Compression::None);
            let zstd = choose(&config(Setting::Zstd), packed_meanwhile);
            assert_eq!(zstd, Compression::Zstd { level: 1 });
        }
        let auto = choose(&config(Setting::Auto), false);
        assert_eq!(auto, Compression::Zstd { level: 1 });
    }

    #[test]
    fn what_the_kernel_says_of_running_threads() {
        assert_eq!(running("0.20 0.18 0.12 1/80 11206\n"), Some(0));
        assert_eq!(running("16.1 1.0 0.1 18/940 5\n"), Some(17));
        for text in [
            "",
            "0.20 0.18 0.12",
            "0 0 0 0/1 5",
            "0 0 0 x/1 5",
            "0 0 0 1 5",
        ] {
            assert_eq!(running(text), None, "{text:?}");
        }
    }
}
