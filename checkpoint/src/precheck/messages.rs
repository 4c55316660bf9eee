//! The messages of CRIU's images that the precheck reads, each with the fields that it
//! compares. Paths are bytes, as the kernel has them.

use crate::images::proto::Ids;
use crate::images::proto::wire::messages;

messages! {
    /// inventory.img.
    Inventory {
        3 root_ids: Option<Ids>,
        13 dump_criu_run_id: Option<String>,
    }

    /// core-N.img: one thread.
    Core {
        3 tc: Option<TaskCore>,
        5 thread_core: Option<ThreadCore>,
    }
    /// The part of a core that only a thread group's leader has.
    TaskCore {
        1 task_state: u32,
        6 comm: String,
        9 cg_set: Option<u32>,
        8 rlimits: Option<Rlimits>,
        11 old_seccomp_mode: Option<u32>,
        12 old_seccomp_filter: Option<u32>,
        14 oom_score_adj: Option<i32>,
    }
    Rlimits {
        1 rlimits: Vec<Rlimit>,
    }
    Rlimit {
        1 current: u64,
        2 hard: u64,
    }
    ThreadCore {
        /// Zigzag-encoded.
        3 sched_nice: Option<u32>,
        4 sched_policy: Option<u32>,
        10 creds: Option<Creds>,
        11 seccomp_mode: Option<u32>,
        12 seccomp_filter: Option<u32>,
        16 cg_set: Option<u32>,
    }
    Creds {
        1 uid: u32,
        2 gid: u32,
        3 euid: u32,
        4 egid: u32,
        5 suid: u32,
        6 sgid: u32,
        7 fsuid: u32,
        8 fsgid: u32,
        9 cap_inh: Vec<u32>,
        10 cap_prm: Vec<u32>,
        11 cap_eff: Vec<u32>,
        12 cap_bnd: Vec<u32>,
        14 groups: Vec<u32>,
        15 lsm_profile: Option<String>,
        18 no_new_privs: Option<u32>,
        19 cap_amb: Vec<u32>,
    }

    /// mm-N.img: a process's memory.
    Mm {
        15 dumpable: Option<i32>,
    }

    /// seccomp.img: one record.
    Seccomp {
        1 seccomp_filters: Vec<SeccompFilter>,
    }
    SeccompFilter {
        2 prev: Option<u32>,
        3 flags: Option<u32>,
    }

    /// userns-N.img.
    Userns {
        1 uid_map: Vec<Extent>,
        2 gid_map: Vec<Extent>,
    }
    Extent {
        1 first: u32,
        2 lower_first: u32,
        3 count: u32,
    }

    /// mountpoints-N.img: one mount.
    Mount {
        1 fstype: u32,
        2 mnt_id: u32,
        3 root_dev: u32,
        4 parent_mnt_id: u32,
        5 flags: u32,
        6 root: Vec<u8>,
        7 mountpoint: Vec<u8>,
        8 source: Vec<u8>,
        9 options: Vec<u8>,
        12 with_plugin: Option<bool>,
        13 ext_mount: Option<bool>,
        14 fsname: Option<String>,
        16 deleted: Option<bool>,
        17 sb_flags: Option<u32>,
        18 ext_key: Option<Vec<u8>>,
    }

    /// files.img: one open file of any kind.
    File {
        1 kind: u32,
        2 id: u32,
        3 reg: Option<RegFile>,
        4 isk: Option<InetSocket>,
        5 nsf: Option<NsFile>,
        6 psk: Option<Vec<u8>>,
        11 tunf: Option<Vec<u8>>,
        14 ffy: Option<Vec<u8>>,
        15 ext: Option<Vec<u8>>,
        16 usk: Option<UnixSocket>,
        19 tty: Option<Terminal>,
        21 bpf: Option<Vec<u8>>,
    }
    RegFile {
        1 id: u32,
        2 flags: u32,
        3 pos: Option<u64>,
        6 name: Vec<u8>,
        /// Zigzag-encoded: even for the IDs that a mount can have.
        7 mnt_id: Option<u32>,
        8 size: Option<u64>,
        9 ext: Option<bool>,
        10 mode: Option<u32>,
    }
    Terminal {
        /// The number of its file.
        6 regf_id: Option<u32>,
    }
    InetSocket {
        4 kind: u32,
    }
    NsFile {
        2 ns_id: u32,
        3 ns_cflag: u32,
    }
    UnixSocket {
        1 id: u32,
        11 name: Vec<u8>,
        14 name_dir: Option<Vec<u8>>,
        /// Zigzag-encoded, as of a regular file.
        17 mnt_id: Option<u32>,
    }

    /// remap-fpath.img: one open file that was deleted.
    Remap {
        1 orig_id: u32,
        2 remap_id: u32,
        3 remap_type: Option<u32>,
    }

    /// ghost-file-N.img, the first record: a file that CRIU makes again.
    Ghost {
        1 uid: u32,
        3 mode: u32,
    }

    /// cgroup.img: one record.
    Cgroups {
        1 sets: Vec<CgroupSet>,
        2 controllers: Vec<Controller>,
    }
    CgroupSet {
        1 id: u32,
        2 ctls: Vec<Member>,
    }
    Member {
        1 name: String,
        2 path: String,
        3 cgns_prefix: Option<u32>,
    }
    Controller {
        1 cnames: Vec<String>,
        2 dirs: Vec<CgroupDir>,
    }
    CgroupDir {
        1 dir_name: String,
        /// Each is a directory, too.
        2 children: Vec<Vec<u8>>,
        3 properties: Vec<Property>,
        4 dir_perms: Option<Perms>,
    }
    Property {
        1 name: String,
    }
    Perms {
        1 mode: u32,
        2 uid: u32,
        3 gid: u32,
    }
}
