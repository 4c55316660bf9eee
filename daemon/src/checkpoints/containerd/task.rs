//! The task of a container: its processes, as its shim sees them.

use std::time::Duration;

use super::api::Status as State;
use super::api::tasks::{
    DeleteTaskRequest, GetRequest, KillRequest, ListPidsRequest, PauseTaskRequest,
    ResumeTaskRequest, WaitRequest,
};
use super::client::{Client, refused};
use crate::checkpoints::{Failure, Kind};

/// The answer of runc ("container not paused") and crun for a container that runs or has
/// ended. runc unfreezes a container that it kills, and containerd's shim takes it for
/// paused until it has seen the end.
const NOT_PAUSED: &str = "not paused";

/// How long killed processes may take to exit. The kernel may need seconds to free their
/// memory. A process that waits for a device or a network file system (state D) takes no
/// signal, and may never exit: then the call must fail, so that the daemon can stop
/// within systemd's 90 s.
const EXIT: Duration = Duration::from_secs(30);

/// A container's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    /// Its first process.
    pub(super) pid: i32,
    pub(super) state: State,
}

impl Task {
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused | State::Pausing)
    }

    /// Whether it has processes.
    pub(super) fn is_alive(&self) -> bool {
        self.state == State::Running || self.is_paused()
    }
}

/// The task of a container; `None` if it has none.
pub(super) async fn get(client: &Client, id: &str) -> Result<Option<Task>, Failure> {
    let request = GetRequest {
        container_id: id.to_owned(),
    };
    let process = match client.tasks().get(request).await {
        Ok(answer) => answer.into_inner().process.unwrap_or_default(),
        Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
        Err(status) => return Err(refused(format!("could not find the task of {id}"))(status)),
    };
    Ok(Some(Task {
        pid: process.pid.cast_signed(),
        state: process.status(),
    }))
}

pub(super) async fn pause(client: &Client, id: &str) -> Result<(), Failure> {
    let request = PauseTaskRequest {
        container_id: id.to_owned(),
    };
    let answer = client.tasks().pause(request).await;
    answer
        .map(drop)
        .map_err(refused(format!("could not freeze container {id}")))
}

pub(super) async fn resume(client: &Client, id: &str) -> Result<(), Failure> {
    let request = ResumeTaskRequest {
        container_id: id.to_owned(),
    };
    let answer = client.tasks().resume(request).await;
    answer
        .map(drop)
        .map_err(refused(format!("could not unfreeze container {id}")))
}

/// Lets a task run that was paused. A task that runs, or has ended, stays as it is.
///
/// # Errors
/// The task is still paused.
pub(super) async fn let_run(client: &Client, id: &str) -> Result<(), Failure> {
    let Err(failure) = resume(client, id).await else {
        return Ok(());
    };
    if failure.text.contains(NOT_PAUSED) {
        return Ok(());
    }
    match get(client, id).await {
        Ok(Some(task)) if task.is_paused() => Err(failure),
        Ok(_) => Ok(()),
        Err(_) => Err(failure),
    }
}

/// The process IDs of all its processes.
pub(super) async fn pids(client: &Client, id: &str) -> Result<Vec<u32>, Failure> {
    let request = ListPidsRequest {
        container_id: id.to_owned(),
    };
    let answer = client.tasks().list_pids(request).await;
    let answer = answer.map_err(refused(format!("could not list the processes of {id}")))?;
    let processes = answer.into_inner().processes.into_iter();
    Ok(processes.map(|process| process.pid).collect())
}

/// Kills all processes of a task, frozen or not, and waits for their end. The task stays,
/// stopped.
///
/// # Errors
/// containerd refuses it, or the processes do not exit in time.
pub(super) async fn kill(client: &Client, id: &str) -> Result<(), Failure> {
    let what = || format!("could not stop container {id}");
    let request = KillRequest {
        container_id: id.to_owned(),
        signal: libc::SIGKILL.cast_unsigned(),
        all: true,
    };
    match client.tasks().kill(request).await {
        Err(status) if status.code() != tonic::Code::NotFound => {
            return Err(refused(what())(status));
        }
        _ => {}
    }
    // A frozen process takes the signal when it is let go, before its next instruction.
    let_run(client, id).await?;
    let request = WaitRequest {
        container_id: id.to_owned(),
    };
    let mut tasks = client.tasks();
    match within(EXIT, id, tasks.wait(request)).await? {
        // A client that waits for the end, such as `ctr run`, may have deleted it.
        Err(status) if status.code() != tonic::Code::NotFound => Err(refused(what())(status)),
        _ => Ok(()),
    }
}

/// Waits for the end of a killed task.
async fn within<T>(limit: Duration, id: &str, end: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(limit, end).await.map_err(|_| {
        Failure::new(
            Kind::State,
            format!(
                "container {id} was killed, but has not ended after {} s: a process may wait for a device or a network file system; look for state D in `ps -eo pid,stat,wchan,args`, and kill the container again when that has been repaired",
                limit.as_secs()
            ),
        )
    })
}

/// Removes a task in any state.
pub(super) async fn remove(client: &Client, id: &str) -> Result<(), Failure> {
    if delete(client, id).await.is_ok() {
        return Ok(());
    }
    kill(client, id).await?;
    delete(client, id).await
}

async fn delete(client: &Client, id: &str) -> Result<(), Failure> {
    let request = DeleteTaskRequest {
        container_id: id.to_owned(),
    };
    let answer = client.tasks().delete(request).await;
    let failed = refused(format!("could not remove the task of {id}"));
    match answer.map(drop).map_err(failed) {
        Err(failure) if failure.kind == Kind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_does_not_end_is_given_up() {
        let never = within(Duration::ZERO, "c", std::future::pending::<()>());
        let failure = never.await.expect_err("given up");
        assert!(failure.text.contains("container c"), "{failure}");
        assert!(failure.text.contains("state D"), "{failure}");
        assert_eq!(within(EXIT, "c", async { 7 }).await, Ok(7));
    }
}
