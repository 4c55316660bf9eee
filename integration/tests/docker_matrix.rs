//! Checkpoints and restores every kind of container that `docker run` can make.
//!
//! Each kind has two stories. In one the container ends with its checkpoint and is
//! restored. In the other it continues after the checkpoint, is killed, and is
//! restored from the same checkpoint twice. After every step its memory, threads,
//! children, connection and a growing file are verified.

use cedana_integration::docker::{
    Container, Network, Run, WORK, docker, docker_ok, no_restore_here,
};
use cedana_integration::{eventually, unique, workload};

/// The number of times that each kind runs its stories.
fn cycles() -> usize {
    match std::env::var("CEDANA_CYCLES") {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("CEDANA_CYCLES: {number} is not a number")),
        Err(_) => 1,
    }
}

/// A container of one kind.
struct Kind {
    /// Flags of `docker run`, separated by blanks. OUT stands for a directory of the
    /// machine, BESIDE for another container, NETWORK for a network.
    flags: &'static str,
    /// The path of a file that grows.
    journal: &'static str,
    /// Flags of the other container.
    beside: &'static str,
    /// Whether Docker's restart policy starts it again.
    restarts: bool,
}

const PLAIN: Kind = Kind {
    flags: "",
    journal: "/journal",
    beside: "",
    restarts: false,
};

impl Kind {
    fn run(&self, label: &str, beside: &Container, network: &Network) -> Run {
        let run = Run::new(label);
        let out = run.out().display().to_string();
        let flags: Vec<_> = self
            .flags
            .split_whitespace()
            .map(|flag| {
                flag.replace("OUT", &out)
                    .replace("BESIDE", beside.name())
                    .replace("NETWORK", network.name())
                    .replace("UNIQUE", &unique("matrix"))
            })
            .collect();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let journal = ["--journal", self.journal];
        let held = [
            "--memory",
            "4",
            "--threads",
            "2",
            "--children",
            "1",
            "--tcp",
        ];
        run.flags(&flags).workload(&[&held[..], &journal].concat())
    }

    fn run_stories(&self, label: &str) {
        if no_restore_here() {
            return;
        }
        let network = Network::create(label);
        // With an init, which reaps the orphans of a container that shares its PID
        // namespace: a restore needs their PIDs.
        let mut flags = vec!["--init"];
        flags.extend(self.beside.split_whitespace());
        // With runc, since it is not checkpointed.
        let beside = Run::new("beside")
            .runtime("runc")
            .flags(&flags)
            .workload(&[])
            .start();
        for _ in 0..cycles() {
            self.is_restored_after_its_checkpoint(&self.run(label, &beside, &network));
            self.continues_and_is_restored_twice(&self.run(label, &beside, &network));
        }
    }

    fn is_restored_after_its_checkpoint(&self, run: &Run) {
        let container = run.clone().start();
        if self.restarts {
            // Docker's restart policy acts on the checkpoint's exit, and the new process
            // would write to the files of the checkpointed one.
            docker_ok(&["update", "--restart", "no", container.name()]);
        }
        let before = container.report();
        container.checkpoint("end").ok();
        container.exited();
        container.restore_and_run("end");
        container.report().continues(&before);
        is_known_by_its_process(&container);
    }

    fn continues_and_is_restored_twice(&self, run: &Run) {
        let container = run.clone().leaves_running().start();
        let before = container.report();
        container.checkpoint_running("on").ok();
        container.running();
        container.report().continues(&before);
        for _ in 0..2 {
            container.kill();
            container.restore_and_run("on");
            container.report().continues(&before);
            is_known_by_its_process(&container);
        }
    }
}

/// Asserts that Docker's PID is the application's, or that of its `--init`.
#[track_caller]
fn is_known_by_its_process(container: &Container) {
    let path = format!("/proc/{}/cmdline", container.pid());
    let line = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(line.contains(workload::PATH), "{path}: {line}");
}

macro_rules! kinds {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {$(
        #[test]
        fn $name() {
            #[allow(clippy::needless_update, reason = "a kind may set every field")]
            Kind { $($field: $value,)* ..PLAIN }.run_stories(stringify!($name));
        }
    )*};
}

kinds! {
    no_network { flags: "--network none" }
    default_bridge {}
    user_defined_network { flags: "--network NETWORK --network-alias app" }
    published_ports { flags: "-p 18080:80 -p 127.0.0.1:18081:81 -p 18082:82/udp" }
    host_network { flags: "--network host" }
    network_of_another_container { flags: "--network container:BESIDE" }
    mac_address { flags: "--mac-address 02:42:ac:11:00:99" }
    own_dns { flags: "--dns 192.0.2.1 --dns-search example.org" }

    terminal { flags: "-t" }
    interactive { flags: "-i" }
    interactive_terminal { flags: "-it" }

    named_volume { flags: "-v UNIQUE:/data", journal: "/data/journal" }
    anonymous_volume { flags: "-v /data", journal: "/data/journal" }
    bind_mount { flags: "-v OUT:/data", journal: "/data/journal" }
    read_only_bind_mount { flags: "-v OUT:/data:ro" }
    bind_mount_of_a_file { flags: "-v /etc/hostname:/etc/thename:ro" }
    bind_mount_by_a_link { flags: "-v /bin:/programs:ro" }
    tmpfs { flags: "--tmpfs /data", journal: "/data/journal" }
    sized_tmpfs { flags: "--mount type=tmpfs,dst=/data,tmpfs-size=16m", journal: "/data/journal" }
    read_only_root { flags: "--read-only --tmpfs /data", journal: "/data/journal" }
    shared_memory_size { flags: "--shm-size 32m", journal: "/dev/shm/journal" }

    memory_limit { flags: "--memory 128m --memory-swap 256m --memory-reservation 64m" }
    cpu_limit { flags: "--cpus 0.7 --cpu-shares 512" }
    cpuset { flags: "--cpuset-cpus 0" }
    pids_limit { flags: "--pids-limit 50" }
    ulimits { flags: "--ulimit nofile=512:512 --ulimit core=0" }
    oom_score { flags: "--oom-score-adj 500" }
    parent_cgroup { flags: "--cgroup-parent /matrix" }
    host_cgroup_namespace { flags: "--cgroupns host" }
    private_cgroup_namespace { flags: "--cgroupns private" }

    init_process { flags: "--init" }
    privileged { flags: "--privileged" }
    added_capabilities { flags: "--cap-add NET_ADMIN --cap-add SYS_TIME" }
    no_capabilities { flags: "--cap-drop ALL" }
    no_seccomp { flags: "--security-opt seccomp=unconfined" }
    no_new_privileges { flags: "--security-opt no-new-privileges" }
    more_groups { flags: "--group-add 1234" }
    device { flags: "--device /dev/null:/dev/nothing" }
    sysctl { flags: "--sysctl net.core.somaxconn=256" }

    host_pids { flags: "--pid host" }
    pids_of_another_container { flags: "--pid container:BESIDE" }
    private_ipc { flags: "--ipc private" }
    shareable_ipc { flags: "--ipc shareable" }
    host_ipc { flags: "--ipc host" }
    no_ipc { flags: "--ipc none" }
    ipc_of_another_container { flags: "--ipc container:BESIDE", beside: "--ipc shareable" }
    host_uts { flags: "--uts host" }

    always_restarted { flags: "--restart always", restarts: true }
    restarted_on_failure { flags: "--restart on-failure:3", restarts: true }
    healthcheck { flags: "--health-cmd true --health-interval 200ms" }
    stop_signal { flags: "--stop-signal USR2 --stop-timeout 1 --workdir /tmp" }
    as_compose_does {
        flags: "--network NETWORK --hostname web --domainname example.org \
                --add-host db:192.0.2.2 --env A=B \
                --label com.docker.compose.project=shop --label com.docker.compose.service=web"
    }
    logs_as_json { flags: "--log-driver json-file --log-opt max-size=1m" }
    logs_of_dockers_own { flags: "--log-driver local" }
    no_logs { flags: "--log-driver none" }
}

#[test]
fn another_user() {
    // CRIU needs it to read and set the limits of processes of another uid.
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    if capabilities.is_none_or(|all| all & (1 << CAP_SYS_RESOURCE) == 0) {
        println!(
            "skipped: this machine gives no CAP_SYS_RESOURCE, which CRIU needs to dump another user's process"
        );
        return;
    }
    Kind {
        flags: "--user 65534:65534 --tmpfs /data:mode=1777 -v OUT:/own",
        journal: "/data/journal",
        ..PLAIN
    }
    .run_stories("another_user");
}

/// A process of `docker exec` is not in the checkpoint. It continues if the container
/// does, and ends with it otherwise.
#[test]
fn an_open_exec() {
    if no_restore_here() {
        return;
    }
    let run = Run::new("exec").image(WORK).workload(&["--memory", "4"]);
    let exec = |container: &Container| {
        let flags = ["exec", "--detach", container.name()];
        docker_ok(&[&flags[..], &[workload::PATH, "--name", "beside"]].concat());
        container.ready("beside");
    };
    let ask_beside = |container: &Container| {
        container.report_after("beside", || {
            let ask = ["pkill", "--signal", "USR1", "--full", "--", "--name beside"];
            container.exec(&ask).ok();
        })
    };
    let container = run.clone().leaves_running().start();
    exec(&container);
    let (before, beside) = (container.report(), ask_beside(&container));
    container.checkpoint_running("on").ok();
    ask_beside(&container).continues(&beside);
    container.report().continues(&before);
    container.kill();
    container.restore_and_run("on");
    container.report().continues(&before);
    let processes = docker(&["top", container.name()]).ok().stdout;
    assert!(
        !processes.contains("beside"),
        "the exec was restored: {processes}"
    );
    drop(container);

    let container = run.start();
    exec(&container);
    let before = container.report();
    container.checkpoint_and_exit("end");
    container.restore_and_run("end");
    container.report().continues(&before);
    exec(&container);
    eventually("the exec runs", || {
        match docker_ok(&["top", container.name()]) {
            top if top.contains("beside") => Ok(()),
            top => Err(top),
        }
    });
}
