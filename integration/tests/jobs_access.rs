//! Access to the daemon and to jobs: users, credentials, the token, addresses.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use cedana_integration::daemon::{ALICE, BOB, Daemon, EVE, TestUser, own_address};
use cedana_integration::folder::Folder;
use cedana_integration::{Output, command};

/// A directory that all test users may enter and write.
fn open_folder(label: &str) -> Folder {
    let folder = Folder::new(label);
    command("chmod", &["0777", &folder.text()]).ok();
    folder
}

/// A daemon whose socket test users can reach.
fn daemon() -> Daemon {
    Daemon::start("access")
}

#[test]
fn another_users_job_looks_like_an_unknown_one() {
    let daemon = daemon();
    let start = |user: TestUser, id| {
        daemon
            .as_user(user, &["exec", "-w", "/", "sleep 1000", id])
            .ok()
    };
    start(ALICE, "secret");
    assert_eq!(
        daemon
            .as_user(BOB, &["ps", "-a"])
            .ok()
            .stdout
            .lines()
            .count(),
        1
    );
    let unknown = |words: &[&str]| {
        let on = |id| [words, &[id]].concat();
        let foreign = daemon.as_user(BOB, &on("secret"));
        let missing = daemon.as_user(BOB, &on("missing"));
        assert_ne!(foreign.code, 0, "{foreign}");
        assert_eq!(foreign.code, missing.code);
        assert_eq!(foreign.stderr.replace("secret", "missing"), missing.stderr);
        assert_eq!(foreign.stdout, "");
    };
    let alice = ALICE.uid.to_string();
    for words in [
        &["kill"][..],
        &["logs"],
        &["attach"],
        &["wait"],
        &["job", "inspect"],
        &["job", "delete"],
        &["job", "delete", "--force"],
        &["kill", "--user", &alice],
        &["logs", "--user", &alice],
    ] {
        unknown(words);
    }
    // The ID is free for others, and root has to say whose job is meant.
    start(BOB, "secret");
    let refused = daemon.cedana(&["kill", "secret"]).refused();
    assert!(
        refused.contains("--user") && refused.contains(&alice),
        "{refused}"
    );
    daemon.ok(&["kill", "--user", &alice, "secret"]);
    assert_eq!(
        daemon.cedana(&["wait", "--user", &alice, "secret"]).code,
        143
    );
    let bobs = daemon.as_user(BOB, &["ps", "--json"]).ok().stdout;
    assert!(
        bobs.lines().count() == 1 && bobs.contains("running"),
        "{bobs}"
    );
    assert_eq!(daemon.ok(&["ps", "-a"]).lines().count(), 3, "root sees all");
}

#[test]
fn the_files_of_a_job_are_for_nobody_else() {
    let daemon = daemon();
    daemon
        .as_user(
            ALICE,
            &["exec", "-w", "/", "echo private; sleep 1000", "files"],
        )
        .ok();
    daemon.as_user(ALICE, &["logs", "files"]).ok();
    let job = format!("state/jobs/{}/files", ALICE.uid);
    for user in [ALICE, BOB, EVE] {
        for path in [
            "state/cedana.db",
            "state/token",
            "state/jobs",
            "run/jobs",
            &format!("{job}/output.log"),
            &format!("{job}/spec.json"),
        ] {
            let refused = user.run(&["cat", &daemon.path(path)]).refused();
            assert!(refused.contains("Permission denied"), "{refused}");
        }
    }
    // A program may open its own output again.
    let ran = daemon.as_user(ALICE, &["exec", "-a", "-w", "/", "echo again >/dev/stdout"]);
    assert_eq!(ran.ok().stdout, "again\n");
}

#[test]
fn users_outside_of_the_group_are_refused() {
    let daemon = daemon();
    let refused = daemon.as_user(EVE, &["ps"]);
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.stderr.contains("group cedana"), "{refused}");
    let mode = command("stat", &["-c", "%a %U %G", &daemon.path("socket")])
        .ok()
        .stdout;
    assert_eq!(mode.trim(), "660 root cedana");
    let started = EVE
        .run(&["cedana", "daemon", "start", "--socket", "/tmp/x"])
        .refused();
    assert!(started.contains("must be root"), "{started}");
}

/// What the kernel's checks of a process depend on.
const SHOW: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Umask):' /proc/self/status | sort; cat /proc/self/limits /proc/self/oom_score_adj";

#[test]
fn a_job_has_exactly_its_callers_credentials() {
    let daemon = daemon();
    let script =
        format!("ulimit -n 321; ulimit -c 0; {SHOW}; cedana --daemon \"$1\" exec -a -w / \"$2\"");
    let socket = daemon.path("socket");
    for user in [ALICE, BOB] {
        let both = user
            .run(&["sh", "-c", &script, "sh", &socket, SHOW])
            .ok()
            .stdout;
        let (caller, job) = both.split_at(both.len() / 2);
        assert_eq!(caller, job);
        assert!(job.contains("Umask:\t0027") && job.contains("321"), "{job}");
        assert!(
            job.contains(&format!("Groups:\t{} 5000 5001", user.uid)),
            "{job}"
        );
        assert!(job.contains("CapEff:\t0000000000000000"), "{job}");
        assert!(job.contains("CapInh:\t0000000000000000"), "{job}");
    }
    // A caller without the means to gain privileges gets a job without them.
    let words = [
        "setpriv",
        "--no-new-privs",
        "cedana",
        "--daemon",
        &socket,
        "exec",
        "-a",
        "-w",
        "/",
        SHOW,
    ];
    let job = ALICE.run(&words).ok().stdout;
    assert!(job.contains("NoNewPrivs:\t1"), "{job}");
}

#[test]
fn a_confined_caller_is_refused() {
    let daemon = daemon();
    let socket = daemon.path("socket");
    let cedana = ["cedana", "--daemon", &socket, "ps"];
    let bounded = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let mapped = ["unshare", "--user", "--map-root-user"];
    for (confined, why) in [
        (&bounded[..], "is root without all capabilities"),
        (&mapped[..], "has a user namespace"),
    ] {
        let words = [&confined[1..], &cedana].concat();
        let reason = command(confined[0], &words).refused();
        assert!(reason.contains(why), "{reason}");
    }
    // A user's bounding set is the job's.
    let bounded = ["setpriv", "--bounding-set=-net_raw"];
    let script = [
        "cedana --daemon ",
        &socket,
        " exec -a -w / 'grep CapBnd /proc/self/status'",
    ];
    let alice = ALICE.uid.to_string();
    let group = fs::metadata(&socket).expect("the socket").gid().to_string();
    let user = ["--reuid", &alice, "--regid", &alice, "--groups", &group];
    let job = command(
        bounded[0],
        &[&bounded[1..], &user, &["sh", "-c", &script.concat()]].concat(),
    );
    let set = job.ok().stdout;
    let set = set.trim().rsplit('\t').next().unwrap_or_default();
    let set = u64::from_str_radix(set, 16).expect("a set");
    assert_eq!(set & 1 << 13, 0, "{set:x}");
}

#[test]
fn paths_are_reached_with_the_callers_rights() {
    let daemon = daemon();
    let folder = open_folder("paths");
    let secret = Folder::new("secret");
    fs::write(secret.file("file"), "root's\n").expect("written");
    command("chmod", &["0700", &secret.text()]).ok();
    let into = secret.file("log").display().to_string();
    let link = folder.file("link").display().to_string();
    ALICE.run(&["ln", "-s", &into, &link]).ok();
    let exec = |options: &[&str]| {
        let words = [&["exec", "-w", "/"], options, &["echo written", "paths"]].concat();
        daemon.as_user(ALICE, &words)
    };
    for log in [&into, &link, "/etc/passwd"] {
        let refused = exec(&["--log", log]).refused();
        assert!(
            refused.contains("cannot append") && refused.contains("Permission denied"),
            "{refused}"
        );
    }
    assert!(exec(&["-w", &secret.text()]).code != 0);
    assert!(!fs::exists(&into).expect("readable"));

    // A log file that is replaced by a link later doesn't show another file.
    let own = folder.file("own").display().to_string();
    exec(&["--log", &own]).ok();
    daemon.as_user(ALICE, &["wait", "paths"]).ok();
    let mode = command("stat", &["-c", "%u %a", &own]).ok().stdout;
    assert_eq!(mode.trim(), format!("{} 640", ALICE.uid));
    ALICE
        .run(&[
            "ln",
            "-sf",
            &secret.file("file").display().to_string(),
            &own,
        ])
        .ok();
    let shown: Output = daemon.as_user(ALICE, &["logs", "paths"]);
    assert!(!shown.stdout.contains("root's"), "{shown}");
    assert!(shown.refused().contains("Permission denied"));
}

#[test]
fn tcp_needs_the_token() {
    let address = own_address();
    let daemon = Daemon::start_with("tcp", &["--tcp", &address]);
    let over_tcp = |token: Option<&str>| {
        let token = token.map(|token| format!("CEDANA_TOKEN={token}"));
        let words = [
            token.as_deref().unwrap_or("A=b"),
            "cedana",
            "--daemon",
            &address,
            "exec",
            "-a",
            "id -u",
        ];
        command("env", &words)
    };
    let missing = over_tcp(None);
    assert!(missing.stderr.contains("needs its token"), "{missing}");
    assert!(
        over_tcp(Some("0123"))
            .refused()
            .contains("not the daemon's token")
    );
    let token = fs::read_to_string(daemon.path("state/token")).expect("a token");
    assert_eq!(over_tcp(Some(token.trim())).ok().stdout, "0\n");
    assert_eq!(daemon.ok(&["ps", "-a"]).lines().count(), 2);
    // Over TCP the kernel names no user, so a user needs the token, too.
    let refused = ALICE.run(&["cedana", "--daemon", &address, "ps"]).refused();
    assert!(refused.contains("needs its token"), "{refused}");
}

#[test]
fn addresses_that_strangers_reach_need_certificates() {
    let start = |tcp: &str| {
        let folder = Folder::new("address");
        let path = |name: &str| folder.file(name).display().to_string();
        let (socket, state, run) = (path("socket"), path("state"), path("run"));
        let words = [
            "60",
            "cedana",
            "daemon",
            "start",
            "--socket",
            &socket,
            "--state-dir",
            &state,
            "--run-dir",
            &run,
            "--tcp",
            tcp,
        ];
        command("timeout", &words).refused()
    };
    for address in ["0.0.0.0:18080", "[::]:18080", "10.1.2.3:18080"] {
        let refused = start(address);
        assert!(refused.contains("mutual TLS"), "{refused}");
    }
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let refused = start(&busy.local_addr().expect("an address").to_string());
    assert!(
        refused.contains("in use") && refused.contains("--tcp off"),
        "{refused}"
    );
    assert!(start("localhost").contains("an IP address with a port"));
}

/// What systemd does: opens the socket, and waits for the daemon's word on another.
const SERVICE_MANAGER: &str = r#"
import os, socket, sys
path, notify, *command = sys.argv[1:]
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(notify)
told.settimeout(150)
opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
opened.bind(path)
opened.listen()
inode = os.stat(path).st_ino
daemon = os.fork()
if daemon == 0:
    os.dup2(opened.fileno(), 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", NOTIFY_SOCKET=notify)
    os.execvp(command[0], command)
print(told.recv(100).decode())
print(os.system(f"cedana --daemon {path} exec -a -- ls -l /proc/self/fd > {path}.seen"))
print(os.system(f"cedana --daemon {path} daemon status | grep -c 'process {daemon} '"))
os.kill(daemon, 15)
print(told.recv(100).decode())
print(os.waitpid(daemon, 0)[1], os.stat(path).st_ino == inode)
"#;

#[test]
fn a_service_manager_opens_the_socket_and_is_told_of_readiness() {
    let folder = Folder::new("manager");
    let path = |name: &str| folder.file(name).display().to_string();
    let (socket, notify, state, run) = (path("socket"), path("notify"), path("state"), path("run"));
    let words = [
        "180",
        "python3",
        "-u",
        "-c",
        SERVICE_MANAGER,
        &socket,
        &notify,
        "cedana",
        "daemon",
        "start",
        "--socket",
        &socket,
        "--state-dir",
        &state,
        "--run-dir",
        &run,
        "--tcp",
        "off",
    ];
    let said = command("timeout", &words).ok().stdout;
    assert_eq!(said, "READY=1\n0\n1\n0\nSTOPPING=1\n0 True\n");
    let seen = fs::read_to_string(path("socket.seen")).expect("a list");
    assert!(
        !seen.contains("socket:"),
        "a job has the daemon's socket: {seen}"
    );
}
