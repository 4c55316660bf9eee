//! Estimates what a checkpoint costs, before it is taken.

use std::path::Path;

use cedana_api::v1;
use nix::sys::statvfs::statvfs;

use super::Checked;

/// Microseconds for which one process without memory stands still: CRIU seizes it, puts
/// its code into it, and lists its files.
const BASE: u64 = 10_000;

/// Microseconds of each process, for the same.
const PROCESS: u64 = 3_000;

/// Microseconds of each MiB of memory, which CRIU copies to the page cache: 0.6 s for a GiB.
const MIB: u64 = 590;

/// The answer to a request for a check. Without a directory its room is unknown.
pub(crate) fn answer(checked: Checked, directory: Option<&Path>) -> v1::CheckResponse {
    let Checked {
        obstacles,
        warnings,
        processes,
        memory,
    } = checked;
    v1::CheckResponse {
        obstacles,
        warnings,
        processes,
        memory_bytes: memory,
        free_bytes: directory.map_or(0, free_bytes),
        frozen_us: match processes {
            // They were not counted.
            0 => 0,
            processes => standstill(memory, processes),
        },
    }
}

/// The microseconds for which processes stand still during a dump, about.
///
/// The rates are of CRIU 4.2 on a virtual machine with two processors (AMD EPYC), with the
/// memory's compression beside it. One process of 64, 256 and 1024 MiB stood still for 33,
/// 175 and 655 ms, 50 processes of 4 MiB each for 265 ms. A loaded machine takes up to three
/// times as long; the compression adds nothing, because it goes on after the dump.
fn standstill(memory: u64, processes: u32) -> u64 {
    let memory = (u128::from(memory) * u128::from(MIB)) >> 20;
    let memory = u64::try_from(memory).unwrap_or(u64::MAX);
    BASE.saturating_add(PROCESS * u64::from(processes))
        .saturating_add(memory)
}

/// Bytes that are free for others than root in a directory, or in the one above if it is
/// still to be made; 0 if that is unknown.
fn free_bytes(directory: &Path) -> u64 {
    let above = || directory.parent().and_then(|above| statvfs(above).ok());
    let stat = statvfs(directory).ok().or_else(above);
    stat.map_or(0, |stat| {
        stat.blocks_available().saturating_mul(stat.fragment_size())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_dumps_are_within_a_factor_of_two() {
        // Bytes, processes, measured microseconds.
        for (mib, processes, measured) in [
            (4, 1, 17_000),
            (67, 1, 33_000),
            (259, 1, 175_000),
            (1027, 1, 655_000),
            (39, 10, 70_000),
            (195, 50, 265_000),
        ] {
            let estimated = standstill(mib << 20, processes);
            let ratio = estimated as f64 / f64::from(measured);
            assert!((0.5..2.0).contains(&ratio), "{mib} MiB: {estimated}");
        }
        assert!(standstill(u64::MAX, u32::MAX) > 1 << 40);
    }

    #[test]
    fn room_of_a_directory() {
        assert!(free_bytes(Path::new("/")) > 0);
        assert!(free_bytes(Path::new("/new")) > 0);
        assert_eq!(free_bytes(Path::new("/no/such")), 0);
        let nothing = answer(Checked::default(), None);
        assert_eq!((nothing.free_bytes, nothing.frozen_us), (0, 0));
    }
}
