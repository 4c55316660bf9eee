//! Metrics of a version 1 cgroup (kernel doc admin-guide/cgroup-v1): times in
//! nanoseconds, memory in bytes.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use containerd_shim::protos::{
    cgroups::metrics::{
        BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
        MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
    },
    protobuf::MessageField,
};

use super::files::{self, device_lines, hugepage_sizes, keyed, number};

pub(super) fn metrics(dirs: &BTreeMap<String, PathBuf>) -> Metrics {
    let dir = |controller: &str| dirs.get(controller).filter(|dir| dir.exists());
    let mut metrics = Metrics::default();
    if let Some(dir) = dir("pids") {
        metrics.pids = MessageField::some(PidsStat {
            current: number(dir, "pids.current").unwrap_or_default(),
            // No limit is reported as 0, as in containerd's cgroups library.
            limit: number(dir, "pids.max")
                .filter(|&n| n != u64::MAX)
                .unwrap_or(0),
            ..PidsStat::default()
        });
    }
    if dir("cpu").is_some() || dir("cpuacct").is_some() {
        metrics.cpu = MessageField::some(CPUStat {
            usage: dir("cpuacct").map(|dir| cpu_usage(dir)).into(),
            throttling: dir("cpu").map(|dir| throttling(dir)).into(),
            ..CPUStat::default()
        });
    }
    if let Some(dir) = dir("memory") {
        metrics.memory = MessageField::some(memory(dir));
        let oom = keyed(dir, "memory.oom_control");
        metrics.memory_oom_control = MessageField::some(MemoryOomControl {
            oom_kill_disable: oom.get("oom_kill_disable"),
            under_oom: oom.get("under_oom"),
            oom_kill: oom.get("oom_kill"),
            ..MemoryOomControl::default()
        });
    }
    if let Some(dir) = dir("blkio") {
        metrics.blkio = MessageField::some(blkio(dir));
    }
    if let Some(dir) = dir("hugetlb") {
        metrics.hugetlb = hugetlb(dir);
    }
    if let Some(dir) = dir("rdma") {
        metrics.rdma = MessageField::some(RdmaStat {
            current: rdma(dir, "rdma.current"),
            limit: rdma(dir, "rdma.max"),
            ..RdmaStat::default()
        });
    }
    metrics
}

fn cpu_usage(dir: &Path) -> CPUUsage {
    let per_cpu = fs::read_to_string(dir.join("cpuacct.usage_percpu")).unwrap_or_default();
    let text = fs::read_to_string(dir.join("cpuacct.usage_all")).unwrap_or_default();
    // cpuacct.usage_all (kernel 4.7): a header, then "CPU USER SYSTEM" in ns.
    let (mut user, mut kernel) = (0, 0);
    for line in text.lines().skip(1) {
        let mut columns = line
            .split_ascii_whitespace()
            .skip(1)
            .map(|n| n.parse().unwrap_or(0));
        user += columns.next().unwrap_or(0);
        kernel += columns.next().unwrap_or(0);
    }
    CPUUsage {
        total: number(dir, "cpuacct.usage").unwrap_or_default(),
        kernel,
        user,
        per_cpu: per_cpu
            .split_ascii_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect(),
        ..CPUUsage::default()
    }
}

fn throttling(dir: &Path) -> Throttle {
    let stat = keyed(dir, "cpu.stat");
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
        ..Throttle::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = keyed(dir, "memory.stat");
    let entry = |prefix: &str| {
        let file = |what: &str| number(dir, &format!("memory.{prefix}{what}"));
        MessageField::from_option(file("usage_in_bytes").map(|usage| MemoryEntry {
            usage,
            limit: file("limit_in_bytes").unwrap_or_default(),
            max: file("max_usage_in_bytes").unwrap_or_default(),
            failcnt: file("failcnt").unwrap_or_default(),
            ..MemoryEntry::default()
        }))
    };
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..MemoryStat::default()
    }
}

/// The statistics of the CFQ scheduler (removed in kernel 5.0) if it counted
/// anything, else those of the throttling policy.
fn blkio(dir: &Path) -> BlkIOStat {
    let names = device_names(&fs::read_to_string("/proc/partitions").unwrap_or_default());
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(format!("blkio.{file}"))).unwrap_or_default();
        blkio_entries(&text, &names)
    };
    let cfq = BlkIOStat {
        io_service_bytes_recursive: read("io_service_bytes_recursive"),
        io_serviced_recursive: read("io_serviced_recursive"),
        io_queued_recursive: read("io_queued_recursive"),
        io_service_time_recursive: read("io_service_time_recursive"),
        io_wait_time_recursive: read("io_wait_time_recursive"),
        io_merged_recursive: read("io_merged_recursive"),
        io_time_recursive: read("time_recursive"),
        sectors_recursive: read("sectors_recursive"),
        ..BlkIOStat::default()
    };
    if cfq != BlkIOStat::default() {
        return cfq;
    }
    BlkIOStat {
        io_service_bytes_recursive: read("throttle.io_service_bytes"),
        io_serviced_recursive: read("throttle.io_serviced"),
        ..BlkIOStat::default()
    }
}

/// Lines of `MAJOR:MINOR OP VALUE` or `MAJOR:MINOR VALUE`, and a total.
fn blkio_entries(text: &str, names: &HashMap<(u64, u64), String>) -> Vec<BlkIOEntry> {
    device_lines(text)
        .filter_map(|(major, minor, rest)| {
            let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
            Some(BlkIOEntry {
                op: op.to_owned(),
                device: names.get(&(major, minor)).cloned().unwrap_or_default(),
                major,
                minor,
                value: value.parse().ok()?,
                ..BlkIOEntry::default()
            })
        })
        .collect()
}

/// `/proc/partitions`: "major minor #blocks name" under a header.
fn device_names(partitions: &str) -> HashMap<(u64, u64), String> {
    partitions
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_ascii_whitespace();
            let major = columns.next()?.parse().ok()?;
            let minor = columns.next()?.parse().ok()?;
            Some(((major, minor), format!("/dev/{}", columns.nth(1)?)))
        })
        .collect()
}

fn hugetlb(dir: &Path) -> Vec<HugetlbStat> {
    hugepage_sizes(dir, ".usage_in_bytes")
        .into_iter()
        .map(|size| {
            let file = |what: &str| number(dir, &format!("hugetlb.{size}.{what}"));
            HugetlbStat {
                usage: file("usage_in_bytes").unwrap_or_default(),
                max: file("max_usage_in_bytes").unwrap_or_default(),
                failcnt: file("failcnt").unwrap_or_default(),
                pagesize: size.clone(),
                ..HugetlbStat::default()
            }
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_read() {
        let root = tempfile::tempdir().unwrap();
        let mut dirs = BTreeMap::new();
        let mut file = |controller: &str, name: &str, text: &str| {
            let dir = root.path().join(controller);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), text).unwrap();
            dirs.insert(controller.to_owned(), dir);
        };
        file("cpuacct", "cpuacct.usage", "30\n");
        file("cpuacct", "cpuacct.usage_percpu", "10 20 \n");
        file(
            "cpuacct",
            "cpuacct.usage_all",
            "cpu user system\n0 4 6\n1 8 12\n",
        );
        file(
            "cpu",
            "cpu.stat",
            "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n",
        );
        file("memory", "memory.stat", "cache 5\ntotal_rss 6\n");
        file("memory", "memory.usage_in_bytes", "4096\n");
        file("memory", "memory.limit_in_bytes", "8192\n");
        file(
            "memory",
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        );
        file("pids", "pids.current", "2\n");
        file("pids", "pids.max", "max\n");
        let m = metrics(&dirs);
        assert_eq!(
            (m.cpu.usage.total, m.cpu.usage.user, m.cpu.usage.kernel),
            (30, 12, 18)
        );
        assert_eq!(m.cpu.usage.per_cpu, [10, 20]);
        assert_eq!(m.cpu.throttling.throttled_time, 3);
        assert_eq!((m.memory.cache, m.memory.total_rss), (5, 6));
        assert_eq!((m.memory.usage.usage, m.memory.usage.limit), (4096, 8192));
        assert!(m.memory.swap.is_none());
        assert_eq!(m.memory_oom_control.oom_kill, 1);
        assert_eq!((m.pids.current, m.pids.limit), (2, 0));
    }

    #[test]
    fn block_devices_are_named() {
        let names = device_names("major minor  #blocks  name\n\n 254 0 1024 vda\n");
        let entries = blkio_entries("254:0 Read 4096\n254:0 Total 4096\nTotal 4096\n", &names);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[0].op.as_str(), entries[0].device.as_str()),
            ("Read", "/dev/vda")
        );
    }
}
