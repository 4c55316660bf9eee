use super::*;
use crate::criu::cause::{Descriptor, Watched};
use proptest::prelude::*;

/// The cause in an excerpt of a log that CRIU 4.2.1 wrote under runc. The file's name
/// is the reason of the failure.
macro_rules! real {
    ($name:literal) => {
        diagnose_text(include_str!(concat!("data/", $name, ".log"))).cause
    };
}

#[test]
fn real_refusals_of_a_dump() {
    use crate::criu::cause::Socket::{Family, Protocol};
    assert_eq!(real!("tcp-established"), Some(Cause::TcpEstablished));
    assert_eq!(real!("tcp-not-accepted"), Some(Cause::InFlight));
    assert_eq!(real!("unix-not-accepted"), Some(Cause::InFlight));
    assert_eq!(
        real!("mptcp"),
        Some(Cause::UnsupportedSocket(Protocol(262)))
    );
    assert_eq!(real!("vsock"), Some(Cause::UnsupportedSocket(Family(40))));
    assert_eq!(real!("userfaultfd"), Some(Cause::Userfaultfd));
    assert_eq!(real!("file-lock"), Some(Cause::FileLocks));
    assert_eq!(
        real!("ghost-too-large"),
        Some(Cause::GhostTooLarge {
            path: "/gh".to_owned(),
            size: 3_002_368,
        })
    );
    assert_eq!(
        real!("link-remap"),
        Some(Cause::LinkRemap("/la".to_owned()))
    );
    assert_eq!(real!("inotify"), Some(Cause::Inotify(Watched::Unknown)));
    assert_eq!(
        real!("nested-uts"),
        Some(Cause::NestedNamespace("uts".to_owned()))
    );
    assert_eq!(
        real!("nested-pid"),
        Some(Cause::NestedNamespace("pid".to_owned()))
    );
    assert_eq!(real!("rlimit"), Some(Cause::Rlimit));
    assert_eq!(real!("packet-pipe"), Some(Cause::PacketPipe));
    assert_eq!(real!("message-queue"), Some(Cause::MessageQueue(None)));
    assert_eq!(
        real!("message-queue-open"),
        Some(outside(4, "/q")),
        "CRIU logs the error of a file outside"
    );
    assert_eq!(
        real!("outside-stdout"),
        Some(outside(1, "/var/tmp/so-16636/out.txt"))
    );
    assert_eq!(real!("dead-leader"), Some(Cause::DeadLeader));
    assert_eq!(real!("no-descriptor"), Some(Cause::NoDescriptor));
    assert_eq!(real!("control-messages"), Some(Cause::ControlMessages));
    assert_eq!(real!("secret-memory"), Some(Cause::SecretMemory));
    assert_eq!(real!("epoll-dump"), Some(Cause::EpollTarget));
    assert_eq!(real!("shell-in-shell"), Some(Cause::ControllingTerminal));
    assert_eq!(
        real!("mount-below"),
        Some(Cause::MountBelow("/top/file".to_owned()))
    );
    assert_eq!(real!("no-space"), Some(Cause::NoSpace));
}

fn outside(number: u32, path: &str) -> Cause {
    Cause::OutsideFile(Descriptor {
        number,
        path: path.to_owned(),
    })
}

/// Logs of dumps during which init or a child of it was killed.
#[test]
fn real_dumps_in_which_a_process_is_killed() {
    for (log, cause) in [
        ("ended-while-dumping", real!("ended-while-dumping")),
        ("ended-before-seizing", real!("ended-before-seizing")),
        ("killed-ack", real!("killed-ack")),
        ("killed-signal", real!("killed-signal")),
        ("ended-mountinfo", real!("ended-mountinfo")),
        ("ended-root", real!("ended-root")),
        ("ended-injecting", real!("ended-injecting")),
        ("ended-stopping", real!("ended-stopping")),
        (
            "ended-dumping-namespaces",
            real!("ended-dumping-namespaces"),
        ),
        // CRIU's code in the process found one free descriptor, needs two, and exited
        // before CRIU restored the memory.
        ("one-descriptor", real!("one-descriptor")),
    ] {
        assert_eq!(cause, Some(Cause::Ended), "{log}");
    }
}

/// Logs that CRIU prints both for a killed process and for a running one with another
/// fault. They have the PID that CRIU could not detach from.
#[test]
fn real_dumps_with_an_ambiguous_log() {
    let namespace = diagnose_text(include_str!("data/ended-namespace.log"));
    let mount = diagnose_text(include_str!("data/ended-mount.log"));
    assert_eq!(namespace.undetached, Some(14880));
    assert_eq!(mount.undetached, Some(11925));
    for found in [namespace, mount] {
        let cause = found.cause.expect("known");
        assert!(cause.may_mean_ended(), "{cause:?}");
    }
    let other = diagnose_text(include_str!("data/nested-uts.log"));
    assert_eq!(other.undetached, None);
    assert!(!Cause::PacketPipe.may_mean_ended());
}

#[test]
fn real_failures_of_a_restore() {
    assert_eq!(real!("epoll-restore"), Some(Cause::EpollTarget));
    assert_eq!(real!("pids-limit"), Some(Cause::PidsLimit));
    assert_eq!(
        real!("missing-file"),
        Some(Cause::MissingFile("/data.txt".to_owned()))
    );
    assert_eq!(
        real!("file-size"),
        Some(Cause::FileSize {
            path: "/data.txt".to_owned(),
            found: 9,
            expected: 5,
        })
    );
    assert!(matches!(
        real!("missing-mount"),
        Some(Cause::MissingMount(_))
    ));
    assert!(matches!(real!("busy-pid"), Some(Cause::BusyPid(_))));
    assert!(matches!(real!("truncated"), Some(Cause::DamagedImage(_))));
    assert_eq!(real!("address-in-use"), Some(Cause::AddressInUse));
    assert_eq!(real!("address-gone"), Some(Cause::AddressNotAvailable));
}

/// Messages in CRIU's source of which no real log is at hand.
#[test]
fn known_texts() {
    let cause = |text: &str| diagnose_text(&format!("(0) Error (a.c:1): {text}\n")).cause;
    assert_eq!(
        cause("Can't dump file 7 of that type [600] (anon anon_inode:[io_uring])"),
        Some(Cause::IoUring)
    );
    assert_eq!(
        cause("inet: Can't get 1:16 opt: Protocol not available"),
        Some(Cause::TooOld)
    );
    assert_eq!(
        cause("vdso: Can't find vDSO/VVAR bounds"),
        Some(Cause::Vdso)
    );
    assert_eq!(
        cause("Timeout reached. Try to interrupt: 0"),
        Some(Cause::FreezeTimeout)
    );
    assert_eq!(
        cause("unix: External socket is used. Consider using --ext-unix-sk option."),
        Some(Cause::ExternalUnixSocket)
    );
    assert_eq!(
        cause("Unseizable non-zombie 42 found, state t, err -1/1"),
        Some(Cause::Traced)
    );
    assert_eq!(
        cause("net: Unable to find an external netns: extRootNetNS"),
        Some(Cause::MissingNetns)
    );
    for text in [
        "Failed to read ack: Connection reset by peer",
        "Message reply from daemon is trimmed (12/0)",
        "42 was killed by 9 unexpectedly: Killed",
        "si_code=2 si_pid=42 si_status=9",
        "Can't open 42/stat on procfs: No such file or directory",
        "SEIZE 42: can't read signfo: No such process",
        "mnt: Unable to get the root file descriptor of pid 42",
        "Task is still running (pid: 42, status: 0x9)",
        "Task 42 is in unexpected state: 9",
        "Task 42 is in unexpected state: f",
        "Task 42 is in unexpected state: 100",
        "Namespaces dumping finished with error 15",
    ] {
        assert_eq!(cause(text), Some(Cause::Ended), "{text}");
    }
    // CRIU's code crashed in the process.
    assert_eq!(
        cause("42 was killed by 11 unexpectedly: Segmentation fault"),
        None
    );
    assert_eq!(cause("si_code=2 si_pid=42 si_status=11"), None);
    for text in [
        // A segmentation fault, and a stop by it.
        "Task 42 is in unexpected state: 8b",
        "Task 42 is in unexpected state: b7f",
        "Task is still running (pid: 42, status: 0xb)",
        // A dumper that failed.
        "Namespaces dumping finished with error 256",
        "Can't open 42/maps on procfs: Invalid argument",
        "mnt: Can't open the task root: Permission denied",
    ] {
        assert_eq!(cause(text), None, "{text}");
    }
    assert_eq!(
        cause("Can't open map_files: No such file or directory"),
        None
    );
    assert_eq!(cause("42 killed by signal 9: Killed"), Some(Cause::Killed));
    assert_eq!(
        cause("Unable to create a thread: -17"),
        Some(Cause::BusyThread)
    );
    assert_eq!(
        cause("Can't fork for 7: Resource temporarily unavailable"),
        Some(Cause::PidsLimit)
    );
    assert_eq!(
        cause("files: Can't open dir: Too many open files"),
        Some(Cause::NoDescriptorLeft)
    );
    assert_eq!(
        cause("fsnotify: Can't create inotify for 0x00000f: Too many open files"),
        Some(Cause::WatchLimit("fs.inotify.max_user_instances"))
    );
    assert_eq!(
        cause("epoll: Can't add event on 0x00000f: No space left on device"),
        Some(Cause::WatchLimit("fs.epoll.max_user_watches"))
    );
    assert_eq!(
        cause("execvp(\"iptables-restore\", ...) failed: No such file or directory"),
        Some(Cause::MissingProgram("iptables-restore".to_owned()))
    );
    assert_eq!(
        cause("Escaped/closed fd descriptor 5 on pid 42"),
        Some(Cause::EpollTarget)
    );
    for text in [
        "mnt: Mount 448 ./top/sub (master_id: 8 shared_id: 0) has unreachable sharing. Try --enable-external-masters.",
        "mnt: FS mnt ./top/sub dev 0x50 root / unsupported id 448",
    ] {
        let below = Cause::MountBelow("/top/sub".to_owned());
        assert_eq!(cause(text), Some(below), "{text}");
    }
    assert_eq!(
        cause("Can't lookup mount=15 for fd=4 path=/secretmem (deleted)"),
        Some(Cause::SecretMemory)
    );
    assert_eq!(
        cause("Zombie thread not supported"),
        Some(Cause::DeadLeader)
    );
    assert!(matches!(
        cause("cpu: CPU capabilities do not match run time"),
        Some(Cause::Cpu(_))
    ));
}

const HEAD: &str = "(00.000001) Version: 4.2.1 (gitid 0)\n\
    (00.000002) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
    (00.000002) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory\n";
const UNKNOWN: &str = "(00.000003)      7: Error (criu/foo.c:1): foo: Something new\n";
const REPORT: &str =
    "(00.000004) Error (criu/cr-dump.c:1545): Dump files (pid: 7) failed with -1\n";
const KNOWN: &str =
    "(00.000005) Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted\n";
const END: &str = "iptables-restore: line 3 failed: Bad rule.\n\
    (00.000006) Error (criu/util.c:657): exited, status=1\n\
    (00.000007) Error (compel/src/lib/infect.c:417): Unable to detach from 7: No such process\n\
    (00.000008) Error (criu/cr-dump.c:2128): Dumping FAILED.\n";

#[test]
fn quotes_the_first_error_if_it_is_unknown() {
    let found = diagnose_text(&[HEAD, UNKNOWN, REPORT, END].concat());
    assert_eq!(found.cause, None);
    assert_eq!(
        found.sentence().as_deref(),
        Some("CRIU says \"foo: Something new\"")
    );
    assert_eq!(
        found.version.map(|v| v.to_string()).as_deref(),
        Some("4.2.1")
    );
}

#[test]
fn a_known_cause_after_an_unknown_error_is_not_the_reason() {
    let found = diagnose_text(&[HEAD, UNKNOWN, KNOWN, END].concat());
    assert_eq!(found.cause, None);
    assert_eq!(found.error.as_deref(), Some("foo: Something new"));
    let found = diagnose_text(&[HEAD, KNOWN, UNKNOWN, END].concat());
    assert_eq!(found.cause, Some(Cause::Rlimit));
}

#[test]
fn the_watching_process_and_the_watched_file_are_found() {
    let found = diagnose_text(include_str!("data/inotify-python.log"));
    assert_eq!(found.cause, Some(Cause::Inotify(Watched::Unknown)));
    assert_eq!(found.process, Some(3156));
    assert_eq!(found.watched, Some((0x50, 0x18c00c)));
    assert_eq!(diagnose_text(HEAD).process, None);
}

#[test]
fn a_report_decides_only_without_a_reason() {
    let found = diagnose_text(&[HEAD, REPORT, KNOWN, END].concat());
    assert_eq!(found.cause, Some(Cause::Rlimit));
    let found = diagnose_text(&[HEAD, REPORT, END].concat());
    assert_eq!(
        found.error.as_deref(),
        Some("Dump files (pid: 7) failed with -1")
    );
    let helper = "(0) Error (criu/util.c:657): exited, status=1\n";
    let failed =
        "(0) Error (criu/net.c:1): net: Locking network failed: iptables-restore returned -1.\n";
    let found = diagnose_text(&[HEAD, helper, failed, END].concat());
    assert_eq!(found.cause, Some(Cause::NetworkLock));
}

#[test]
fn probes_and_cleanup_are_never_reasons() {
    let cleanup = "(0) Error (criu/cr-dump.c:2128): Dumping FAILED.\n";
    assert_eq!(diagnose_text(&[HEAD, cleanup].concat()).sentence(), None);
}

/// The same words from another source file are another error.
#[test]
fn an_error_line_is_recognized_by_its_file_too() {
    let found = diagnose_text("(0) Error (criu/other.c:1): Unable to create tun: x\n");
    assert_eq!(found.error.as_deref(), Some("Unable to create tun: x"));
}

#[test]
fn a_log_without_errors_has_no_sentence() {
    assert_eq!(
        diagnose_text("(00.1) Dumping finished successfully\n").sentence(),
        None
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = diagnose_text(&String::from_utf8_lossy(&bytes)).sentence();
    }

    #[test]
    fn no_message_panics(
        text in prop::sample::select(vec![
            "Can't dump ghost file ", "File ", "Can't fork for ", "Unsupported proto ",
            "No mapping for ", "Can't open file ", "do not match expected ", "mnt: ",
            "Can't lookup mount=", "Can't open ", "si_code=", "mnt: 1:./", "execvp(\"",
            "Unable to create a thread: ",
        ]),
        rest in "\\PC{0,40}",
    ) {
        let _ = diagnose_text(&format!("(0) Error (a.c:1): {text}{rest}\n")).sentence();
    }
}

#[test]
fn unread_data_unaccepted_connections_and_slow_freezes_pass() {
    for message in [
        "inet: In-flight connection (l) for 1a2b",
        "unix: In-flight connection on 0x1a2b",
        "netlink: The socket has data to read",
        "Unable to freeze cgroup /sys/fs/cgroup/freezer/x (10 x 100ms attempts, timeout: 1s)",
    ] {
        let cause = Cause::of(message);
        assert!(
            cause.is_some_and(|cause| cause.passes_by_itself()),
            "{message}"
        );
    }
    assert!(Cause::ControlMessages.passes_by_itself());
    for cause in [Cause::Ended, Cause::IoUring, Cause::NoSpace] {
        assert!(!cause.passes_by_itself(), "{cause:?}");
    }
}

#[test]
fn success_is_a_whole_line_of_criu() {
    let success = "(01.234567) Dumping finished successfully\n";
    assert!(text_succeeded(success));
    assert!(text_succeeded(&format!(
        "(00.1) one\n{success}(01.3) two\n"
    )));
    // From 100 seconds on CRIU cuts the stamp.
    assert!(text_succeeded(
        "(100.12345) Restore finished successfully. Tasks resumed.\n"
    ));
    for log in [
        "",
        "Dumping finished successfully\n",
        "(01.2) fd 3 is /tmp/Dumping finished successfully\n",
        "(01.2) fd 3 is /tmp/(01.2) Dumping finished successfully\n",
        "(01.2) Dumping finished successfully, they say\n",
        "(x) Dumping finished successfully\n",
        "(01.2)Dumping finished successfully\n",
        // The name of a file with a line end, and what CRIU says at its end.
        "(01.2) /tmp/a\n(01.2) Dumping finished successfully\n(01.3) Error (criu/cr-dump.c:2128): Dumping FAILED.\n",
        "(01.2) Restore finished successfully. Tasks resumed.\n(01.3) Error (criu/cr-restore.c:9): Restoring FAILED.\n",
    ] {
        assert!(!text_succeeded(log), "{log}");
    }
}

#[test]
fn an_error_in_a_name_is_no_error_of_criu() {
    let name = "/tmp/Error (criu/cr-dump.c:1): No space left on device";
    let log = format!(
        "(00.1) Dumping path for 3 fd via self 5 [{name}]\n(00.2) Error (criu/sk-inet.c:1): inet: Connected TCP socket\n"
    );
    assert_eq!(diagnose_text(&log).cause, Some(Cause::TcpEstablished));
    assert_eq!(diagnose_text(&format!("(00.1) {name}\n")).error, None);
}

#[test]
fn prefixes_of_lines() {
    for line in ["(00.1) x", "(00.1)     42: x", "(100.12345) pie: 42: x"] {
        assert_eq!(message(line), Some("x"), "{line}");
    }
    assert_eq!(message("(00.1) 42 x: y"), Some("42 x: y"));
    assert_eq!(message("(00.1) : x"), Some(": x"));
    for line in ["", "(", "()", "() x", "(a) x", "(1)x", "x"] {
        assert_eq!(message(line), None, "{line}");
    }
}

proptest! {
    #[test]
    fn no_name_of_one_line_is_a_success(name in "[^\n\r]{0,80}") {
        let log = format!("(00.1) Dumping path [{name}]\n");
        prop_assert!(!text_succeeded(&log));
    }
}
