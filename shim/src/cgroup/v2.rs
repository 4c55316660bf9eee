//! Metrics of a version 2 cgroup (kernel doc cgroup-v2.rst): times in microseconds,
//! memory in bytes, `max` as the largest number.

use std::{fs, path::Path};

use containerd_shim::protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};
use containerd_shim::protos::protobuf::MessageField;

use super::files::{self, Keyed, device_lines, hugepage_sizes, keyed, number, word};

pub(super) fn metrics(dir: &Path) -> Metrics {
    Metrics {
        pids: pids(dir).into(),
        cpu: MessageField::some(cpu(dir)),
        memory: MessageField::some(memory(dir)),
        memory_events: MessageField::some(memory_events(&keyed(dir, "memory.events"))),
        io: MessageField::some(io(dir)),
        rdma: MessageField::some(RdmaStat {
            current: rdma(dir, "rdma.current"),
            limit: rdma(dir, "rdma.max"),
            ..RdmaStat::default()
        }),
        hugetlb: hugetlb(dir),
        ..Metrics::default()
    }
}

fn pids(dir: &Path) -> Option<PidsStat> {
    Some(PidsStat {
        current: number(dir, "pids.current")?,
        // No limit is reported as 0, as in containerd's cgroups library.
        limit: number(dir, "pids.max")
            .filter(|&n| n != u64::MAX)
            .unwrap_or(0),
        ..PidsStat::default()
    })
}

fn cpu(dir: &Path) -> CPUStat {
    let stat = keyed(dir, "cpu.stat");
    CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: pressure(dir, "cpu.pressure").into(),
        ..CPUStat::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = keyed(dir, "memory.stat");
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        // Split into _anon and _file by kernel 5.9.
        workingset_refault: stat.get("workingset_refault")
            + stat.get("workingset_refault_anon")
            + stat.get("workingset_refault_file"),
        workingset_activate: stat.get("workingset_activate")
            + stat.get("workingset_activate_anon")
            + stat.get("workingset_activate_file"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: number(dir, "memory.current").unwrap_or_default(),
        usage_limit: number(dir, "memory.max").unwrap_or_default(),
        max_usage: number(dir, "memory.peak").unwrap_or_default(),
        swap_usage: number(dir, "memory.swap.current").unwrap_or_default(),
        swap_limit: number(dir, "memory.swap.max").unwrap_or_default(),
        swap_max_usage: number(dir, "memory.swap.peak").unwrap_or_default(),
        psi: pressure(dir, "memory.pressure").into(),
        ..MemoryStat::default()
    }
}

fn memory_events(events: &Keyed) -> MemoryEvents {
    MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
        ..MemoryEvents::default()
    }
}

fn io(dir: &Path) -> IOStat {
    let stat = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    IOStat {
        usage: device_lines(&stat)
            .map(|(major, minor, words)| IOEntry {
                major,
                minor,
                rbytes: word(words, "rbytes"),
                wbytes: word(words, "wbytes"),
                rios: word(words, "rios"),
                wios: word(words, "wios"),
                ..IOEntry::default()
            })
            .collect(),
        psi: pressure(dir, "io.pressure").into(),
        ..IOStat::default()
    }
}

fn rdma(dir: &Path, file: &str) -> Vec<RdmaEntry> {
    files::rdma(dir, file)
        .into_iter()
        .map(|(device, hca_handles, hca_objects)| RdmaEntry {
            device,
            hca_handles,
            hca_objects,
            ..RdmaEntry::default()
        })
        .collect()
}

fn hugetlb(dir: &Path) -> Vec<HugeTlbStat> {
    hugepage_sizes(dir, ".current")
        .into_iter()
        .map(|size| HugeTlbStat {
            current: number(dir, &format!("hugetlb.{size}.current")).unwrap_or_default(),
            max: number(dir, &format!("hugetlb.{size}.max")).unwrap_or_default(),
            failcnt: keyed(dir, &format!("hugetlb.{size}.events")).get("max"),
            pagesize: size,
            ..HugeTlbStat::default()
        })
        .collect()
}

/// Pressure stall information (kernel doc accounting/psi.rst); None if the kernel
/// does not record it.
fn pressure(dir: &Path, file: &str) -> Option<PSIStats> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    let line = |kind: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == kind)
            .map(|(_, words)| psi_data(words))
    };
    Some(PSIStats {
        some: line("some").into(),
        full: line("full").into(),
        ..PSIStats::default()
    })
}

fn psi_data(words: &str) -> PSIData {
    let average = |key: &str| {
        words
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or_default()
    };
    PSIData {
        avg10: average("avg10"),
        avg60: average("avg60"),
        avg300: average("avg300"),
        total: word(words, "total"),
        ..PSIData::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        file("pids.current", "3\n");
        file("pids.max", "max\n");
        file("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\n");
        file("memory.current", "4096\n");
        file("memory.max", "max\n");
        file(
            "memory.stat",
            "anon 1\nworkingset_refault_anon 2\nworkingset_refault_file 3\n",
        );
        file("memory.events", "oom 1\noom_kill 2\n");
        file(
            "memory.pressure",
            "some avg10=0.50 avg60=0.25 avg300=0.10 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
        );
        file(
            "io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        );
        let m = metrics(dir.path());
        assert_eq!((m.pids.current, m.pids.limit), (3, 0));
        assert_eq!((m.cpu.usage_usec, m.cpu.system_usec), (10, 4));
        assert_eq!((m.memory.usage, m.memory.usage_limit), (4096, u64::MAX));
        assert_eq!(m.memory.workingset_refault, 5);
        assert_eq!(m.memory.psi.some.total, 77);
        assert!((m.memory.psi.some.avg10 - 0.5).abs() < f64::EPSILON);
        assert_eq!(m.memory_events.oom_kill, 2);
        assert_eq!(m.io.usage[0].wios, 4);
    }

    #[test]
    fn a_cgroup_without_controllers_has_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let m = metrics(dir.path());
        assert!(m.pids.is_none());
        assert_eq!(m.memory.usage, 0);
    }
}
