//! Refuses checkpoints that end a container which Docker could never restore.

use cedana_integration::cgroup_of;
use cedana_integration::docker::{Run, no_restore_here};

const HELD: [&str; 4] = ["--memory", "2", "--threads", "6"];

#[test]
fn a_checkpoint_that_ends_a_container_with_rm_is_refused() {
    if no_restore_here() {
        return;
    }
    let container = Run::new("removed").flags(&["--rm"]).workload(&HELD).start();
    let before = container.report();
    let reason = container.checkpoint("cp").refused();
    for word in ["--rm", "could never be restored", "run it without --rm"] {
        assert!(reason.contains(word), "no {word:?} in: {reason}");
    }
    container.running();
    container.report().continues(&before);
    assert!(container.checkpoints().is_empty());

    let kept = Run::new("kept").workload(&HELD).start();
    let before = kept.report();
    kept.checkpoint_and_exit("cp");
    kept.restore_and_run("cp");
    kept.report().continues(&before);
}

#[test]
fn a_container_with_rm_may_continue() {
    if no_restore_here() {
        return;
    }
    let run = Run::new("running-on").flags(&["--rm"]).workload(&HELD);
    let container = run.leaves_running().start();
    let before = container.report();
    container.checkpoint_running("cp").ok();
    container.report().continues(&before);
}

/// The number of the workload's processes and threads without a limit.
#[track_caller]
fn size() -> u64 {
    let container = Run::new("size").workload(&HELD).start();
    let file = cgroup_of(container.pid(), "pids").join("pids.current");
    let current = std::fs::read_to_string(&file).expect("a pids cgroup");
    current.trim().parse().expect("a number")
}

#[test]
fn a_checkpoint_is_refused_if_the_pids_limit_leaves_criu_no_process() {
    if no_restore_here() {
        return;
    }
    let size = size();
    let limited = |label, limit: u64| {
        let limit = limit.to_string();
        let run = Run::new(label).flags(&["--pids-limit", &limit]);
        run.workload(&HELD).start()
    };
    let container = limited("full", size + 1);
    let before = container.report();
    let reason = container.checkpoint("cp").refused();
    for word in ["pids limit", "could never be restored", "raise the limit"] {
        assert!(reason.contains(word), "no {word:?} in: {reason}");
    }
    container.report().continues(&before);

    let container = limited("room", size + 2);
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    container.report().continues(&before);
}

/// Docker keeps the container's files, so CRIU finds the new directory at a restore.
#[test]
fn a_checkpoint_with_a_deleted_and_replaced_directory_is_refused() {
    if no_restore_here() {
        return;
    }
    let run = Run::new("replaced").workload(&["--deleted-directory-replaced"]);
    let container = run.start();
    let before = container.report();
    let reason = container.checkpoint("cp").refused();
    for word in ["/tmp/directory-1", "could never be restored", "restart"] {
        assert!(reason.contains(word), "no {word:?} in: {reason}");
    }
    container.report().continues(&before);

    let run = Run::new("not-replaced").workload(&["--deleted-directory-last"]);
    let container = run.start();
    let before = container.report();
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    container.report().continues(&before);
}
