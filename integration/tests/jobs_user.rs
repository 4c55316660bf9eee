//! Jobs of an unprivileged user that are dumped and restored by their owner.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cedana_integration::daemon::{ALICE, Daemon};

/// Answers SIGUSR1.
const PROGRAM: &str = r"
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('ready', flush=True)
asked = 0
while True:
    signal.sigwait([signal.SIGUSR1])
    asked += 1
    print('answer', asked, flush=True)
";

/// Whether CRIU can dump another user's process: it reads and sets its limits.
fn can_dump_users() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & 1 << 24 != 0)
}

/// The node's key: only signed checkpoints are restored for users.
fn key() {
    let path = Path::new("/etc/cedana/key");
    if path.exists() {
        return;
    }
    fs::create_dir_all("/etc/cedana").expect("mkdir");
    fs::write(path, "0123456789abcdef".repeat(4)).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

#[test]
fn a_user_s_job_comes_back_with_and_without_a_terminal() {
    if !can_dump_users() {
        println!(
            "skipped: this machine gives no CAP_SYS_RESOURCE, which CRIU needs to dump another user's process"
        );
        return;
    }
    key();
    let daemon = Daemon::start("user");
    let alice = |words: &[&str]| daemon.as_user(ALICE, words).ok();
    for (id, terminal) in [("plain", &[][..]), ("terminal", &["-t"])] {
        let program = [id, "--", "python3", "-c", PROGRAM];
        alice(&[&["exec", "-w", "/"], terminal, &program].concat());
        daemon.writes(id, "ready");
        for round in 1..=2 {
            alice(&["dump", "job", id]);
            daemon.job_is(id, "checkpointed");
            alice(&["restore", "job", id]);
            alice(&["kill", "-s", "USR1", id]);
            daemon.writes(id, &format!("answer {round}"));
        }
        alice(&["kill", "-s", "KILL", id]);
    }
}
