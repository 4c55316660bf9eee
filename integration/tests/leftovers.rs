//! Runs many containers, and verifies that the machine is unchanged afterwards.

use cedana_integration::{Leftovers, Run, descriptors_of, eventually};

/// The number of containers; the soak test sets a larger one.
fn cycles() -> usize {
    match std::env::var("CEDANA_CYCLES") {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("CEDANA_CYCLES: {number} is not a number")),
        Err(_) => 20,
    }
}

/// Runs, checkpoints, deletes, restores, verifies and deletes a container.
fn run_and_restore(run: Run) {
    let container = run
        .workload(&["--memory", "12", "--children", "1"])
        .detach();
    container.exec(&["true"]).ok();
    let before = container.report();
    let image = container.checkpoint(&["--rw", "--image"]);
    container.end_task();
    let restored = container.restore(&image, &["--rw"]);
    restored.exec(&["true"]).ok();
    restored.report().continues(&before);
    restored.kill("SIGTERM");
    restored.stopped();
}

/// One test, so that no other runs in this program at the same time.
#[test]
fn nothing_is_left_over() {
    // The first container creates what stays: caches, directories, databases.
    run_and_restore(Run::new("first"));
    without_a_pod();
    in_a_pod();
}

fn without_a_pod() {
    let before = Leftovers::now();
    for _ in 0..cycles() {
        run_and_restore(Run::new("life"));
    }
    before.unchanged();
}

/// In a pod, whose shim outlives its containers, so that descriptors can leak in it.
fn in_a_pod() {
    let before_the_pod = Leftovers::now();
    let sandbox = Run::new("sandbox");
    let pod = sandbox.id().to_owned();
    let sandbox = sandbox.in_pod(&pod).workload(&[]).detach();
    let shim = sandbox.shim_pid();
    // The first container in the pod may open what stays.
    run_and_restore(Run::new("first-in-pod").in_pod(&pod));
    let before = Leftovers::now();
    let open = descriptors_of(shim);
    for _ in 0..cycles().div_ceil(4) {
        run_and_restore(Run::new("life-in-pod").in_pod(&pod));
    }
    before.unchanged();
    // Fewer are allowed, since a connection may have been open at first.
    eventually("the pod's shim has no more descriptors", || {
        let mut more = descriptors_of(shim);
        for known in &open {
            if let Some(at) = more.iter().position(|now| now == known) {
                more.swap_remove(at);
            }
        }
        if more.is_empty() {
            Ok(())
        } else {
            Err(format!("{more:?}"))
        }
    });
    assert_eq!(sandbox.shim_pid(), shim);
    drop(sandbox);
    before_the_pod.unchanged();
}
