//! The messages in CRIU's images, each with the fields that are read here.
//!
//! Numbers and names are those of CRIU's images/*.proto, to which CRIU only adds: a
//! required field is required in every version since 3.0.

pub(crate) mod wire;

use wire::messages;

messages! {
    /// inventory.img: one record about the whole dump.
    Inventory {
        1 img_version: u32,
        3 root_ids: Option<Ids>,
    }

    /// pstree.img: one record per process.
    PstreeEntry {
        1 pid: u32,
        2 ppid: u32,
        3 pgid: u32,
        4 sid: u32,
        5 threads: Vec<u32>,
    }

    /// core-N.img: one record per thread; N is its ID.
    Core {
        1 mtype: u32,
        /// On x86 only.
        2 thread_info: Option<ThreadInfoX86>,
        3 tc: Option<TaskCore>,
        4 ids: Option<Ids>,
        5 thread_core: Option<ThreadCore>,
    }
    /// The registers of a thread on x86.
    ThreadInfoX86 {
        3 fpregs: Option<FpregsX86>,
    }
    FpregsX86 {
        13 xsave: Option<XsaveX86>,
    }
    XsaveX86 {
        1 xstate_bv: u64,
    }
    /// The part of a core that only a thread group's leader has.
    TaskCore {
        1 task_state: u32,
        2 exit_code: u32,
        6 comm: String,
    }
    /// The part that every thread has.
    ThreadCore {
        10 creds: Option<Creds>,
        13 comm: Option<String>,
    }
    /// A thread's credentials.
    Creds {
        3 euid: u32,
        4 egid: u32,
    }

    /// ids-N.img: CRIU's numbers for a process's kernel objects. Two processes with the
    /// same number share the object.
    Ids {
        2 files_id: u32,
        5 pid_ns_id: Option<u32>,
        6 net_ns_id: Option<u32>,
        7 ipc_ns_id: Option<u32>,
        8 uts_ns_id: Option<u32>,
        9 mnt_ns_id: Option<u32>,
        10 user_ns_id: Option<u32>,
        11 cgroup_ns_id: Option<u32>,
        12 time_ns_id: Option<u32>,
    }

    /// mm-N.img: an address space.
    Mm {
        5 mm_start_stack: u64,
        12 exe_file_id: u32,
        13 saved_auxv: Vec<u64>,
        14 vmas: Vec<Vma>,
    }
    /// One mapping of an address space.
    Vma {
        1 start: u64,
        2 end: u64,
        /// The ID of the file, or of the shared memory segment.
        4 shmid: u64,
        5 prot: u32,
        6 flags: u32,
        7 status: u32,
        9 madv: Option<u64>,
    }

    /// pagemap-N.img, the first record: the number of the pages file.
    PagemapHead {
        1 pages_id: u32,
    }
    /// pagemap-N.img, the other records: runs of pages, in the order of the pages file.
    PagemapRun {
        1 vaddr: u64,
        2 compat_nr_pages: u32,
        3 in_parent: Option<bool>,
        4 flags: Option<u32>,
        5 nr_pages: Option<u64>,
    }

    /// fdinfo-N.img: one record per file descriptor of a table.
    FdInfo {
        1 id: u32,
        2 flags: u32,
        3 kind: u32,
        4 fd: u32,
    }
    /// fs-N.img: a process's working directory and root.
    Fs {
        1 cwd_id: u32,
        2 root_id: u32,
    }

    /// files.img: one record per open file of any kind.
    FileEntry {
        1 kind: u32,
        2 id: u32,
        3 reg: Option<RegFile>,
        4 isk: Option<InetSocket>,
        5 nsf: Option<NsFile>,
        6 psk: Option<PacketSocket>,
        7 nlsk: Option<NetlinkSocket>,
        8 efd: Option<EventFd>,
        9 epfd: Option<EventPoll>,
        11 tunf: Option<TunFile>,
        13 ify: Option<Inotify>,
        16 usk: Option<UnixSocket>,
        17 fifo: Option<Fifo>,
        18 pipe: Option<Pipe>,
        19 tty: Option<TtyFile>,
        20 memfd: Option<MemfdFile>,
        21 bpf: Option<BpfMap>,
        22 pidfd: Option<PidFd>,
    }
    RegFile {
        2 flags: u32,
        3 pos: u64,
        6 name: String,
        /// Zigzag-encoded: even for the IDs that a mount can have.
        7 mnt_id: Option<u32>,
        8 size: Option<u64>,
        10 mode: Option<u32>,
    }
    InetSocket {
        2 ino: u32,
        3 family: u32,
        4 kind: u32,
        5 proto: u32,
        6 state: u32,
        7 src_port: u32,
        8 dst_port: u32,
        11 src_addr: Vec<u32>,
        12 dst_addr: Vec<u32>,
        17 ifname: Option<String>,
        18 ns_id: Option<u32>,
    }
    UnixSocket {
        2 ino: u32,
        3 kind: u32,
        4 state: u32,
        8 peer: u32,
        11 name: Vec<u8>,
        14 name_dir: Option<String>,
        16 ns_id: Option<u32>,
    }
    PacketSocket {
        2 kind: u32,
        3 protocol: u32,
        5 ifindex: u32,
        20 ns_id: Option<u32>,
    }
    NetlinkSocket {
        3 protocol: u32,
        7 portid: u32,
        13 ns_id: Option<u32>,
    }
    NsFile {
        2 ns_id: u32,
        3 ns_cflag: u32,
    }
    EventFd {
        4 counter: u64,
    }
    EventPoll {
        4 tfd: Vec<EventPollTarget>,
    }
    EventPollTarget {
        2 tfd: u32,
    }
    Inotify {
        5 wd: Vec<InotifyWatch>,
    }
    InotifyWatch {
        6 wd: u32,
    }
    TunFile {
        2 netdev: Option<String>,
    }
    Fifo {
        2 pipe_id: u32,
        3 regf_id: Option<u32>,
    }
    Pipe {
        2 pipe_id: u32,
        3 flags: u32,
    }
    TtyFile {
        2 tty_info_id: u32,
        6 regf_id: Option<u32>,
    }
    MemfdFile {
        2 flags: u32,
        3 pos: u64,
        5 inode_id: u32,
    }
    BpfMap {
        13 map_name: String,
    }
    PidFd {
        4 nspid: i32,
    }

    /// tty-info.img: one record per terminal.
    TtyInfo {
        1 id: u32,
        2 kind: u32,
        12 pty: Option<Pty>,
    }
    Pty {
        1 index: u32,
    }

    /// memfd.img: one record per memory file.
    MemfdInode {
        1 name: String,
        4 size: u64,
        5 shmid: u32,
        7 inode_id: u64,
    }

    /// remap-fpath.img: open files that were deleted.
    RemapFilePath {
        1 orig_id: u32,
        2 remap_id: u32,
        3 remap_type: Option<u32>,
    }

    /// tcp-stream-N.img: a connection's queues; N is the socket's inode.
    TcpStream {
        1 inq_len: u32,
        3 outq_len: u32,
    }

    /// mountpoints-N.img: one record per mount of a mount namespace.
    Mount {
        1 fstype: u32,
        2 mnt_id: u32,
        4 parent_mnt_id: u32,
        6 root: String,
        7 mountpoint: String,
        8 source: String,
        9 options: String,
        13 ext_mount: Option<bool>,
        14 fsname: Option<String>,
        18 ext_key: Option<String>,
    }

    /// netns-N.img: a network namespace.
    Netns {
        8 ext_key: Option<String>,
    }

    /// stats-dump: the costs of the dump.
    Stats {
        1 dump: Option<DumpStats>,
    }
    /// Times in microseconds.
    DumpStats {
        1 freezing_time: u32,
        2 frozen_time: u32,
        3 memdump_time: u32,
        4 memwrite_time: u32,
        5 pages_scanned: u64,
        6 pages_skipped_parent: u64,
        7 pages_written: u64,
        14 shpages_written: Option<u64>,
    }
}

impl Vma {
    // The bits of mmap(2) on x86-64 and arm64, and CRIU's own (include/image.h).
    const PRIVATE: u32 = 0x02;
    const ANONYMOUS: u32 = 0x20;
    pub(crate) const LOCKED: u32 = 0x2000;
    pub(crate) const NORESERVE: u32 = 0x4000;
    pub(crate) const HUGETLB: u32 = 0x4_0000;

    /// Whether this is a guard region inside a mapping (`VMA_AREA_GUARD`, since CRIU
    /// 4.2).
    pub(crate) fn is_guard(&self) -> bool {
        self.status & (1 << 16) != 0
    }

    pub(crate) fn is_private_anonymous(&self) -> bool {
        const BOTH: u32 = Vma::PRIVATE | Vma::ANONYMOUS;
        self.flags & BOTH == BOTH
    }

    pub(crate) fn is_writable(&self) -> bool {
        const WRITE: u32 = 2;
        self.prot & WRITE != 0
    }
}

impl PagemapRun {
    /// The number of pages. The older field has 32 bits, and is zero if the number does
    /// not fit (since CRIU 4.0).
    pub(crate) fn pages(&self) -> u64 {
        self.nr_pages.unwrap_or(self.compat_nr_pages.into())
    }

    /// Whether the pages are in the pages file. CRIU before 2.6 wrote no flags: pages
    /// that were not in the parent were in the file.
    pub(crate) fn is_present(&self) -> bool {
        const PRESENT: u32 = 1 << 2;
        match self.flags {
            Some(flags) => flags & PRESENT != 0,
            None => !self.in_parent.unwrap_or(false),
        }
    }

    /// Whether a restore may leave the pages for later.
    pub(crate) fn is_lazy(&self) -> bool {
        const LAZY: u32 = 1 << 1;
        self.flags.unwrap_or_default() & LAZY != 0
    }

    /// Whether the pages are in the parent checkpoint.
    pub(crate) fn is_in_parent(&self) -> bool {
        const PARENT: u32 = 1;
        match self.flags {
            Some(flags) => flags & PARENT != 0,
            None => self.in_parent.unwrap_or(false),
        }
    }
}
