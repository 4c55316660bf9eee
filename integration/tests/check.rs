//! `cedana check` of a machine, and `cedana freeze` of processes that fork.

use std::collections::BTreeMap;
use std::fs;

use cedana_integration::daemon::{ALICE, Daemon};
use cedana_integration::folder::Folder;
use cedana_integration::{Output, Run, command, eventually};
use serde_json::Value;

/// Runs `cedana check` with variables of its own.
fn check(daemon: &str, variables: &[&str], arguments: &[&str]) -> Output {
    let cedana = ["/usr/local/bin/cedana", "--daemon", daemon, "check"];
    command("env", &[variables, &cedana, arguments].concat())
}

/// The findings of `cedana check --json`, by name.
fn findings(said: &Output) -> BTreeMap<String, Value> {
    let parsed = said.stdout.lines().map(|line| {
        let finding: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let name = finding["check"].as_str().expect("a name").to_owned();
        (name, finding)
    });
    parsed.collect()
}

#[test]
fn a_machine_with_all_that_is_needed_is_fit() {
    let daemon = Daemon::start("check");
    let said = daemon.cedana(&["check"]).ok().stdout;
    for name in [
        "kernel",
        "criu",
        "criu-check",
        "userfaultfd",
        "fuse",
        "cgroups",
        "network-lock",
        "runtime",
        "cedana-runc",
        "containerd",
        "containerd-shim",
        "settings",
        "daemon",
    ] {
        assert!(said.contains(&format!("✔ {name} ")), "{name}: {said}");
    }
    assert!(!said.contains('✘'), "{said}");
    // Docker is not in this instance.
    let found = findings(&daemon.cedana(&["check", "--json"]).ok());
    assert_eq!(found["criu"]["ok"], true);
    assert_eq!(found["criu"]["remedy"], Value::Null);
    assert!(
        found["criu"]["found"]
            .as_str()
            .is_some_and(|text| text.contains("/criu"))
    );
    assert!(found["criu"]["needed_for"].is_string());
    assert!(found.contains_key("room"), "{found:?}");
    assert!(
        found.values().all(|finding| finding["ok"] != false),
        "{found:?}"
    );
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let folder = Folder::new("check");
    let nowhere = folder.file("socket").display().to_string();
    let path = "PATH=/usr/local/bin";
    let said = check(&nowhere, &[path], &[]);
    assert_eq!(said.code, 1, "{said}");
    let said = said.stdout;
    assert!(said.contains("✘ criu "), "{said}");
    assert!(said.contains("in PATH (/usr/local/bin)"), "{said}");
    assert!(said.contains("install CRIU 3.17 or later"), "{said}");
    assert!(said.contains("✘ runtime "), "{said}");
    assert!(said.contains("✘ daemon "), "{said}");
    assert!(said.contains("cedana daemon start"), "{said}");
    // Without UTF-8.
    let said = check(&nowhere, &[path, "LC_ALL=C"], &[]).stdout;
    assert!(said.contains("NO criu "), "{said}");
    assert!(said.contains("ok kernel "), "{said}");
    assert!(said.is_ascii(), "{said}");
    let said = check(&nowhere, &[path], &["--json"]);
    assert_eq!(said.code, 1, "{said}");
    let found = findings(&said);
    assert_eq!(found["criu"]["ok"], false);
    assert!(
        found["criu"]["remedy"]
            .as_str()
            .is_some_and(|text| text.contains("install CRIU"))
    );
}

#[test]
fn mistakes_of_settings_and_directories_are_found() {
    let daemon = Daemon::start("check");
    let folder = Folder::new("check");
    let file = folder.file("config.toml");
    fs::write(&file, "[checkpoint]\nghost_limt = 1\n").expect("written");
    let variable = format!("CEDANA_CONFIG={}", file.display());
    let said = check(&daemon.path("socket"), &[&variable], &["--json"]);
    assert_eq!(said.code, 1, "{said}");
    let found = findings(&said);
    assert_eq!(found["settings"]["ok"], false);
    assert!(
        found["settings"]["found"]
            .as_str()
            .is_some_and(|text| text.contains("ghost_limt"))
    );
    let missing = folder.file("dumps").display().to_string();
    let said = daemon.cedana(&["check", "-d", &missing]);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.stdout.contains("✘ dump-directory "), "{said}");
    assert!(
        said.stdout.contains(&format!("mkdir -p {missing}")),
        "{said}"
    );
    fs::create_dir(&missing).expect("created");
    daemon.cedana(&["check", "-d", &missing]).ok();
}

#[test]
fn without_root_the_check_says_what_it_cannot_see() {
    let daemon = Daemon::start("check");
    let socket = daemon.path("socket");
    let cedana = ["env", "HOME=/tmp", "cedana", "--daemon", &socket, "check"];
    let said = ALICE.run(&cedana).ok().stdout;
    assert!(said.contains("? key "), "{said}");
    assert!(said.contains("? network-lock "), "{said}");
    assert!(said.contains("✔ daemon "), "{said}");
    assert!(said.contains("sudo cedana check"), "{said}");
    let refused = daemon.cedana(&["check", "--shell-job"]).refused();
    assert!(refused.contains("cedana check process"), "{refused}");
}

/// The states of the processes of a session that have not ended.
fn states(session: i32) -> Vec<(String, char)> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let state = |pid: &str| -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        (fields.nth(2)? == session.to_string() && state != 'Z').then_some(state)
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter_map(|pid| state(&pid).map(|state| (pid, state)))
        .collect()
}

#[test]
fn a_process_tree_that_forks_is_frozen_and_runs_on() {
    const FORKS: &str = "for i in 1 2 3; do while :; do sleep 0; done & done
        while :; do echo line; sleep 0.01; done";
    let daemon = Daemon::start("freeze");
    daemon.ok(&["exec", FORKS, "forks"]);
    let pid = daemon.pid_of("forks");
    daemon.writes("forks", "line");
    let number = pid.to_string();
    let process = ["process", number.as_str()];
    let freeze = [&["freeze"], &process[..]].concat();
    let unfreeze = [&["unfreeze"], &process[..]].concat();
    for _ in 0..10 {
        daemon.ok(&freeze);
        let frozen = states(pid);
        assert!(frozen.len() >= 4, "{frozen:?}");
        // A shell between vfork and exec of its child waits in the kernel for the child.
        let stands = |(_, state): &(String, char)| matches!(state, 'T' | 'D');
        assert!(frozen.iter().all(stands), "{frozen:?}");
        assert_eq!(states(pid), frozen);
        let refused = daemon.cedana(&freeze).refused();
        assert!(refused.contains("is frozen already"), "{refused}");
        let written = daemon.ok(&["logs", "forks"]).len();
        daemon.ok(&unfreeze);
        eventually("the job writes on", || {
            let now = daemon.ok(&["logs", "forks"]).len();
            match now > written {
                true => Ok(()),
                false => Err(now.to_string()),
            }
        });
    }
    let refused = daemon.cedana(&unfreeze).refused();
    assert!(refused.contains("is not frozen"), "{refused}");
    let refused = daemon.as_user(ALICE, &freeze).refused();
    assert!(refused.contains("only root"), "{refused}");
    assert!(states(pid).iter().all(|(_, state)| *state != 'T'));
}

#[test]
fn what_cannot_be_frozen_is_named() {
    let daemon = Daemon::start("freeze");
    let own = std::process::id().to_string();
    let daemons = daemon.pid().to_string();
    for (pid, reason) in [
        ("1", "it is init"),
        (daemons.as_str(), "it is this program"),
        (own.as_str(), "ancestor"),
        ("2147483647", "there is no process"),
    ] {
        let refused = daemon.cedana(&["freeze", "process", pid]).refused();
        assert!(refused.contains(reason), "{refused}");
    }
    let container = Run::new("freeze").command(&["top"]).detach();
    let refused = daemon
        .cedana(&["freeze", "process", &container.pid().to_string()])
        .refused();
    assert!(refused.contains("cedana freeze containerd"), "{refused}");
}

#[test]
fn a_check_says_what_would_stop_a_checkpoint_and_what_it_costs() {
    let daemon = Daemon::start("check");
    daemon.ok(&["exec", "fit", "--", "sleep", "1000"]);
    daemon.pid_of("fit");
    let said = daemon.ok(&["check", "job", "fit"]);
    assert!(said.contains("✔ nothing is known to stop"), "{said}");
    assert!(said.contains("1 process, "), "{said}");
    assert!(said.contains("would stand still for about"), "{said}");
    assert!(said.contains(" free"), "{said}");
    let json = |said: &str| -> Value {
        serde_json::from_str(said).unwrap_or_else(|e| panic!("{said}: {e}"))
    };
    let found = json(&daemon.ok(&["check", "job", "fit", "--json"]));
    assert_eq!(
        (&found["ok"], &found["processes"]),
        (&true.into(), &1.into())
    );
    for key in ["memory_bytes", "free_bytes", "frozen_us"] {
        assert!(
            found[key].as_u64().is_some_and(|number| number > 0),
            "{found}"
        );
    }
    // This test's own child has its session.
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("spawn");
    let pid = child.id().to_string();
    let folder = Folder::new("check");
    let refused = daemon.cedana(&["check", "process", &pid, "-d", &folder.text()]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.stdout.contains("✘ the leader of its session"),
        "{refused}"
    );
    let refused = daemon.cedana(&["check", "--json", "process", &pid]);
    assert_eq!(refused.code, 1, "{refused}");
    let found = json(&refused.stdout);
    assert_eq!(found["ok"], false);
    assert!(
        found["obstacles"][0]
            .as_str()
            .is_some_and(|text| text.contains("--shell-job"))
    );
    assert!(found["free_bytes"].is_null(), "{found}");
    let shell = daemon
        .cedana(&["check", "process", &pid, "--shell-job"])
        .stdout;
    assert!(!shell.contains("leader of its session"), "{shell}");
    child.kill().expect("killed");
    child.wait().expect("wait");
    let refused = daemon.cedana(&["check", "job", "none"]).refused();
    assert!(refused.contains("no job none"), "{refused}");
}

#[test]
fn a_job_is_frozen_and_runs_on() {
    let daemon = Daemon::start("freeze");
    daemon.ok(&[
        "exec",
        "(setsid sleep 1000 &); while :; do sleep 0; done",
        "job",
    ]);
    let pid = daemon.pid_of("job");
    eventually("the job forks", || match states(pid).len() {
        0 | 1 => Err("no child".to_owned()),
        _ => Ok(()),
    });
    daemon.ok(&["freeze", "job", "job"]);
    assert!(
        states(pid)
            .iter()
            .all(|(_, state)| matches!(state, 'T' | 'D'))
    );
    let refused = daemon.cedana(&["freeze", "job", "job"]).refused();
    assert!(refused.contains("frozen already"), "{refused}");
    daemon.ok(&["unfreeze", "job", "job"]);
    assert!(states(pid).iter().all(|(_, state)| *state != 'T'));
}
