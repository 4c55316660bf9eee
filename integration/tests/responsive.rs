//! The shim answers other requests during a checkpoint.
//!
//! A gate in runc's place stops the checkpoint until the story opens it, so every
//! answer before that was given during the checkpoint.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cedana_integration::api::Status;
use cedana_integration::{Container, Gate, Refused, Run, Task, unique};

/// The deadline of an answer, generous for a loaded machine. A request that waits for
/// the checkpoint is never answered, since the gate opens after the answer.
const PATIENCE: Duration = Duration::from_secs(150);

/// A checkpoint that has begun and waits at a gate.
struct Stopped {
    gate: Gate,
    done: mpsc::Receiver<Result<(), Refused>>,
}

impl Stopped {
    fn of(container: &Container, gate: Gate) -> Self {
        let (tell, done) = mpsc::channel();
        let task = container.task();
        let images = container.out().join("images");
        std::fs::create_dir(&images).unwrap_or_else(|error| panic!("{error}"));
        thread::spawn(move || tell.send(task.checkpoint(&images, None)));
        gate.arrived();
        Self { gate, done }
    }

    /// Sends a request during the checkpoint; panics if it is not answered.
    #[track_caller]
    fn meanwhile<T: Send + 'static>(
        &self,
        task: &Task,
        what: &str,
        ask: impl FnOnce(&Task) -> Result<T, Refused> + Send + 'static,
    ) -> T {
        let (tell, told) = mpsc::channel();
        let task = task.clone();
        thread::spawn(move || tell.send(ask(&task)));
        let answer = told
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{what}: no answer in {PATIENCE:?} during a checkpoint"));
        let over = self.done.try_recv();
        assert!(over.is_err(), "the checkpoint was over too early: {over:?}");
        answer.unwrap_or_else(|refused| panic!("{what}: {refused}"))
    }

    #[track_caller]
    fn finish(self) {
        self.gate.open();
        let done = self.done.recv_timeout(Duration::from_secs(180));
        let done = done.unwrap_or_else(|_| panic!("the checkpoint did not end"));
        done.unwrap_or_else(|refused| panic!("the checkpoint: {refused}"));
    }
}

#[test]
fn state_wait_and_kill_answer_during_a_checkpoint_of_the_same_container() {
    let gate = Gate::before("checkpoint");
    let container = Run::new("same")
        .runtime_binary(&gate.program())
        .workload(&["--term-code", "9"])
        .detach();
    let before = container.report();
    let task = container.task();
    let registered = task.clone();
    let waiting = thread::spawn(move || registered.wait(""));
    let checkpoint = Stopped::of(&container, gate);

    let state = checkpoint.meanwhile(&task, "State", |t| t.state(""));
    assert_ne!(state.status.enum_value(), Ok(Status::STOPPED));
    assert_eq!(state.pid, container.pid());
    checkpoint.meanwhile(&task, "Pids", Task::pids);
    checkpoint.meanwhile(&task, "Stats", Task::stats);
    checkpoint.meanwhile(&task, "Connect", Task::connect);
    // The runtime waits at the gate, so the container is not frozen yet and handles the
    // signal.
    let gate_shut = task.clone();
    let report = container.report_after("workload", || {
        checkpoint.meanwhile(&gate_shut, "Kill", |t| t.kill("", 10, false));
    });
    report.continues(&before);
    checkpoint.finish();

    container.report().continues(&before);
    container.kill("SIGTERM");
    let exit = waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(9));
}

#[test]
fn a_wait_answers_when_the_container_ends_during_its_checkpoint() {
    let gate = Gate::before("checkpoint");
    let container = Run::new("ends")
        .runtime_binary(&gate.program())
        .workload(&[])
        .detach();
    let task = container.task();
    let registered = task.clone();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(registered.wait("")));
    let checkpoint = Stopped::of(&container, gate);

    checkpoint.meanwhile(&task, "Kill", |t| t.kill("", 9, false));
    let exit = told.recv_timeout(PATIENCE);
    let exit = exit.unwrap_or_else(|_| panic!("Wait: no answer in {PATIENCE:?}"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(137));

    checkpoint.gate.open();
    let failed = checkpoint.done.recv_timeout(Duration::from_secs(180));
    let failed = failed.unwrap_or_else(|_| panic!("the checkpoint did not end"));
    assert!(
        failed.is_err(),
        "a checkpoint of an exited container succeeded"
    );
}

#[test]
fn requests_for_another_container_of_the_pod_are_answered_during_a_checkpoint() {
    let sandbox = Run::new("pod");
    let pod = sandbox.id().to_owned();
    let gate = Gate::before("checkpoint");
    let sandbox = sandbox
        .in_pod(&pod)
        .runtime_binary(&gate.program())
        .workload(&[])
        .detach();
    let other = Run::new("neighbour")
        .in_pod(&pod)
        .workload(&["--term-code", "6"])
        .detach();
    let shim = |c: &Container| c.task().connect().map(|a| a.shim_pid).ok();
    assert_eq!(shim(&sandbox), shim(&other), "the pod has two shims");
    let before = other.report();
    let task = other.task();
    let registered = task.clone();
    let waiting = thread::spawn(move || registered.wait(""));
    let checkpoint = Stopped::of(&sandbox, gate);

    let state = checkpoint.meanwhile(&task, "State", |t| t.state(""));
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    other.report().continues(&before);
    let exec_id = unique("beside");
    let process = r#"{"args":["true"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}"#;
    let name = exec_id.clone();
    checkpoint.meanwhile(&task, "Exec", move |t| t.exec(&name, process, ["", "", ""]));
    let name = exec_id.clone();
    checkpoint.meanwhile(&task, "Start", move |t| t.start(&name));
    let exit = checkpoint.meanwhile(&task, "Wait", move |t| t.wait(&exec_id));
    assert_eq!(exit.exit_status, 0);
    checkpoint.meanwhile(&task, "Pause", Task::pause);
    checkpoint.meanwhile(&task, "Resume", Task::resume);
    checkpoint.meanwhile(&task, "Kill", |t| t.kill("", 15, false));
    let exit = waiting
        .join()
        .unwrap_or_else(|_| panic!("the waiting thread"));
    assert_eq!(exit.map(|e| e.exit_status).ok(), Some(6));
    checkpoint.finish();
    sandbox.report().intact();
}
