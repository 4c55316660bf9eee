use super::*;
use proptest::prelude::*;

/// Excerpts of logs that CRIU 4.2.1 wrote under runc when it was given the cause
/// that each file is named after.
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
    assert_eq!(real!("inotify"), Some(Cause::Inotify));
    assert_eq!(
        real!("nested-uts"),
        Some(Cause::NestedNamespace("uts".to_owned()))
    );
    assert_eq!(
        real!("nested-pid"),
        Some(Cause::NestedNamespace("pid".to_owned()))
    );
    assert_eq!(real!("rlimit"), Some(Cause::Rlimit));
    assert_eq!(real!("no-space"), Some(Cause::NoSpace));
}

#[test]
fn real_failures_of_a_restore() {
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

/// Texts of CRIU's source that could not be provoked.
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
    assert!(matches!(
        cause("cpu: CPU capabilities do not match run time"),
        Some(Cause::Cpu(_))
    ));
}

#[test]
fn quotes_the_first_unknown_error_that_is_not_harmless() {
    let log = "(00.000001) Version: 4.2.1 (gitid 0)\n\
        (00.000002) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n\
        (00.000003)      7: Error (criu/foo.c:1): foo: Something new\n\
        (00.000004) Error (criu/cr-dump.c:2128): Dumping FAILED.\n";
    let found = diagnose_text(log);
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
fn a_log_without_errors_says_nothing() {
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
        ]),
        rest in "\\PC{0,40}",
    ) {
        let _ = diagnose_text(&format!("(0) Error (a.c:1): {text}{rest}\n")).sentence();
    }
}
