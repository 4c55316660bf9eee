//! After many lives, the machine is as it was.

use cedana_integration::{Leftovers, Run, descriptors_of, eventually};

/// How many lives; the soak test asks for more.
fn cycles() -> usize {
    match std::env::var("CEDANA_CYCLES") {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("CEDANA_CYCLES: {number} is not a number")),
        Err(_) => 20,
    }
}

/// Run, exec, checkpoint, delete, restore, ask, delete.
fn one_life(run: Run) {
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

/// One test, so that nothing else runs in this program beside it.
#[test]
fn nothing_is_left_over() {
    // The first life makes what stays for good: caches, directories, databases.
    one_life(Run::new("first"));
    lives_on_their_own();
    lives_in_a_pod();
}

fn lives_on_their_own() {
    let before = Leftovers::now();
    for _ in 0..cycles() {
        one_life(Run::new("life"));
    }
    before.gone();
}

/// A pod's shim outlives its containers: here its own memory of them shows.
fn lives_in_a_pod() {
    let before_the_pod = Leftovers::now();
    let sandbox = Run::new("sandbox");
    let pod = sandbox.id().to_owned();
    let sandbox = sandbox.in_pod(&pod).workload(&[]).detach();
    let shim = sandbox.shim_pid();
    // Again the first may cost something once.
    one_life(Run::new("first-in-pod").in_pod(&pod));
    let before = Leftovers::now();
    let open = descriptors_of(shim);
    for _ in 0..cycles().div_ceil(4) {
        one_life(Run::new("life-in-pod").in_pod(&pod));
    }
    before.gone();
    // Less is fine: a connection of the first look may still have been open.
    eventually("the pod's shim has nothing more open", || {
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
    before_the_pod.gone();
}
