use std::process::{Child, Command, Stdio};

use super::*;

/// A shell with this script, killed with its descendants when dropped.
struct Shell(Child);

impl Shell {
    fn run(script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("a shell"))
    }

    fn pid(&self) -> i32 {
        Pid::of(&self.0).as_raw()
    }

    fn tree(&self) -> Vec<Pid> {
        let mut pids: Vec<Pid> = parents_first(Pid::of(&self.0))
            .into_iter()
            .map(|(pid, _)| pid)
            .filter(|pid| state(*pid) != State::Ended)
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Waits until the tree has as many processes.
    fn has(&self, count: usize) {
        while self.tree().len() < count {
            thread::yield_now();
        }
    }

    /// Whether none is stopped.
    fn runs(&self) -> bool {
        !self.states().contains(&State::Stopped)
    }

    fn states(&self) -> Vec<State> {
        let tree = parents_first(Pid::of(&self.0));
        states(&tree).into_values().collect()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        cedana_checkpoint::host::process_tree::kill(Pid::of(&self.0));
        let _ = self.0.wait();
    }
}

fn error(result: Result<(), Failure>) -> (Kind, String) {
    let failure = result.expect_err("an error");
    (failure.kind, failure.text)
}

#[test]
fn a_tree_stops_and_runs_again() {
    let shell = Shell::run("sleep 1000 & sh -c 'sleep 1000; :' & wait");
    shell.has(4);
    freeze(shell.pid()).expect("frozen");
    assert_eq!(shell.states(), [State::Stopped; 4]);
    let (kind, text) = error(freeze(shell.pid()));
    assert_eq!(kind, Kind::State);
    assert!(text.contains("frozen already"), "{text}");
    unfreeze(shell.pid()).expect("runs");
    assert!(shell.runs());
    let (kind, text) = error(unfreeze(shell.pid()));
    assert_eq!(kind, Kind::State);
    assert!(text.contains("is not frozen"), "{text}");
}

#[test]
fn processes_that_fork_in_a_loop_are_all_stopped() {
    let script = "for i in 1 2 3; do while :; do sleep 0; done & done; wait";
    let shell = Shell::run(script);
    shell.has(4);
    for _ in 0..20 {
        freeze(shell.pid()).expect("frozen");
        let (tree, states) = (shell.tree(), shell.states());
        assert!(
            states.iter().all(|state| *state == State::Stopped),
            "{states:?}"
        );
        assert_eq!(shell.tree(), tree);
        unfreeze(shell.pid()).expect("runs");
    }
}

#[test]
fn the_rest_of_a_tree_that_is_partly_stopped_stops() {
    let shell = Shell::run("sleep 1000 & wait");
    shell.has(2);
    let child = parents_first(Pid::of(&shell.0))[1].0;
    nix::sys::signal::kill(child.into(), nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    freeze(shell.pid()).expect("frozen");
    assert_eq!(shell.states(), [State::Stopped; 2]);
    unfreeze(shell.pid()).expect("runs");
    assert!(shell.runs());
}

#[test]
fn the_children_of_a_supervisor_stop_without_it() {
    let supervisor = Shell::run("sleep 1000 & sh -c 'sleep 1000; :' & wait");
    supervisor.has(4);
    freeze_job(supervisor.pid()).expect("frozen");
    let mut states = supervisor.states();
    states.sort_by_key(|state| *state == State::Stopped);
    assert_eq!(states[0], State::Running);
    assert_eq!(states[1..], [State::Stopped; 3]);
    assert_eq!(state(Pid::of(&supervisor.0)), State::Running);
    unfreeze_job(supervisor.pid()).expect("runs");
    assert!(supervisor.runs());
    let alone = Shell::run("read line < /dev/null; exec sleep 1000");
    let (_, text) = error(freeze_job(alone.pid()));
    assert!(text.contains("the job has no process"), "{text}");
}

#[test]
fn a_failed_freeze_is_undone() {
    let shell = Shell::run("sleep 1000 & wait");
    shell.has(2);
    let child = parents_first(Pid::of(&shell.0))[1].0;
    let (nothing, seize) = (std::ptr::null_mut::<libc::c_void>(), libc::PTRACE_SEIZE);
    // SAFETY: PTRACE_SEIZE takes a number and touches no memory of this process.
    let seized = unsafe { libc::ptrace(seize, child.as_raw(), nothing, nothing) };
    assert_eq!(seized, 0, "{}", Errno::last());
    let (kind, text) = error(freeze(shell.pid()));
    assert_eq!(kind, Kind::State);
    assert!(text.contains("is traced by process"), "{text}");
    assert!(shell.runs());
}

#[test]
fn what_is_never_stopped_is_named() {
    for (pid, kind, reason) in [
        (0, Kind::Invalid, "not a process ID"),
        (1, Kind::State, "it is init"),
        (Pid::own().as_raw(), Kind::State, "it is this program"),
        (i32::MAX, Kind::NotFound, "there is no process"),
    ] {
        let (found, text) = error(freeze(pid));
        assert_eq!(found, kind, "{text}");
        assert!(text.contains(reason), "{text}");
    }
    let parent = std::os::unix::process::parent_id().cast_signed();
    let (_, text) = error(freeze(parent));
    assert!(text.contains("ancestor") || text.contains("init"), "{text}");
    let ended = Shell::run(":");
    while state(Pid::of(&ended.0)) != State::Ended {
        thread::yield_now();
    }
    let (_, text) = error(freeze(ended.pid()));
    assert!(text.contains("has ended"), "{text}");
}
