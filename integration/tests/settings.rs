//! A mistake in the node's settings stops checkpoints and restores, and nothing else.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cedana_integration::folder::Folder;
use cedana_integration::{BareShim, Run, Settings, command, ctr, ctr_ok, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The settings file affects all stories of the instance.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const UNKNOWN: &str = "[checkpoint]\ntcp_establised = true\n";
const MISTAKE: &str = "/etc/cedana/config.toml:2: unknown setting \"checkpoint.tcp_establised\"; did you mean \"checkpoint.tcp_established\"?";

#[test]
fn with_a_mistake_in_the_file_all_but_checkpoints_and_restores_work() {
    let _alone = alone();
    let earlier = Run::new("earlier").workload(&["--memory", "2"]).detach();
    let before = earlier.report();
    let image = earlier.checkpoint(&[]);
    earlier.report().continues(&before);
    earlier.end_task();

    for (text, mistake) in [
        (UNKNOWN, MISTAKE),
        ("log_keep = = 3\n", "/etc/cedana/config.toml:1: "),
        ("runtime = 7.5\n", "/etc/cedana/config.toml:1: runtime: "),
    ] {
        let settings = Settings::write(text);
        let container = Run::new("mistake").workload(&["--memory", "2"]).detach();
        let before = container.report();
        assert_eq!(container.exec(&["echo", "here"]).ok().stdout, "here\n");
        ctr_ok(&["task", "pause", container.id()]);
        ctr_ok(&["task", "resume", container.id()]);
        let reason = ctr(&["task", "checkpoint", container.id()]).refused();
        assert!(reason.contains(mistake), "{reason}");
        container.report().continues(&before);

        let (restored, answer) = earlier.try_restore(&image, &[]);
        let reason = answer.refused();
        assert!(reason.contains(mistake), "{reason}");
        drop(restored);

        container.kill("SIGKILL");
        container.stopped();
        ctr_ok(&["task", "delete", "--force", container.id()]);
        ctr_ok(&["containers", "delete", container.id()]);
        drop(settings);
    }
    let restored = earlier.restore(&image, &[]);
    restored.report().continues(&before);
}

#[test]
fn the_shim_logs_the_mistake_once() {
    let _alone = alone();
    let _settings = Settings::write(UNKNOWN);
    let shim = BareShim::start("logs", &[]);
    shim.run();
    let warning = format!("checkpoints and restores are refused: {MISTAKE}");
    let warning = warning.replace('"', "\\\"");
    eventually("the shim logs the mistake", || {
        let logged = shim.logged();
        match logged.matches(&warning).count() {
            1 => Ok(()),
            _ => Err(logged),
        }
    });
    shim.report().intact();
}

#[test]
fn a_killed_shim_is_cleaned_up_after_despite_a_mistake() {
    let _alone = alone();
    let _settings = Settings::write(UNKNOWN);
    let container = Run::new("shim-killed").workload(&[]).detach();
    let pid = container.pid();
    let shim = Pid::from_raw(i32::try_from(container.shim_pid()).expect("a PID"));
    kill(shim, Signal::SIGKILL).unwrap_or_else(|error| panic!("the shim: {error}"));
    eventually("the container's init has exited", || {
        match Path::new(&format!("/proc/{pid}")).exists() {
            true => Err(format!("{pid} runs")),
            false => Ok(()),
        }
    });
    eventually("runc has no such container", || {
        let state = format!("/run/containerd/runc/default/{}", container.id());
        match fs::exists(&state) {
            Ok(false) => Ok(()),
            other => Err(format!("{state}: {other:?}")),
        }
    });
}

#[test]
fn a_stray_variable_stops_checkpoints_only() {
    let _alone = alone();
    const STRAY: (&str, &str) = ("CEDANA_RESTORE_SETLE", "1s");
    let shim = BareShim::start_with("stray", &[], &[STRAY]);
    shim.run();
    let before = shim.report();
    let images = Folder::new("images");
    let refused = shim.task().checkpoint(&images.0, None);
    let refused = refused.expect_err("a checkpoint with a stray variable");
    assert!(
        refused.message.contains("CEDANA_RESTORE_SETLE"),
        "{refused}"
    );
    shim.report().continues(&before);
    eventually("the shim logs the mistake", || {
        let logged = shim.logged();
        match logged.contains("CEDANA_RESTORE_SETLE") {
            true => Ok(()),
            false => Err(logged),
        }
    });
}

#[test]
fn cedana_runc_prints_the_mistake_beside_the_runtimes_output() {
    let _alone = alone();
    let stock = command("runc", &["--version"]).ok().stdout;
    let _settings = Settings::write(UNKNOWN);
    let answer = command("cedana-runc", &["--version"]).ok();
    assert_eq!(answer.stdout, stock);
    assert!(answer.stderr.contains(MISTAKE), "{answer}");
    assert_eq!(answer.stderr.lines().count(), 1, "{answer}");
}
