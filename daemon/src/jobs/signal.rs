//! Requests to a supervisor: a signal, or a connection to the terminal.

use std::io;
use std::sync::Arc;

use super::link::{self, Reader, Writer};
use super::{JobError, Jobs};
use crate::job::spec::TerminalSize;
use crate::store::{JobRow, JobState};
use crate::supervisor::protocol::{Answer, Frame, Request};

impl Jobs {
    /// Sends a signal to a job's process group.
    ///
    /// # Errors
    /// The job does not run, or the number is no signal.
    pub async fn signal(self: &Arc<Self>, job: &JobRow, signal: i32) -> Result<(), JobError> {
        if !(1..=libc::SIGRTMAX()).contains(&signal) {
            return Err(JobError::Invalid(format!(
                "{signal} is not a signal; `kill -l` lists them"
            )));
        }
        if let JobState::Managed { pid } = job.state {
            return self.signal_managed(job, pid, signal);
        }
        self.request(job, Request::Signal(signal)).await.map(drop)
    }

    /// Connects to a job's terminal.
    ///
    /// # Errors
    /// The job does not run or has no terminal.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        job: &JobRow,
        size: TerminalSize,
    ) -> Result<(Reader, Writer), JobError> {
        if !job.terminal {
            return Err(JobError::State {
                id: job.key.id.clone(),
                state: format!(
                    "has no terminal; `cedana logs -f {}` shows what it writes",
                    job.key.id
                ),
            });
        }
        self.request(job, Request::Attach(size)).await
    }

    async fn request(
        self: &Arc<Self>,
        job: &JobRow,
        request: Request,
    ) -> Result<(Reader, Writer), JobError> {
        let id = &job.key.id;
        if !job.state.is_live() {
            return Err(JobError::not_running(id, job.state));
        }
        let answered = async {
            let (mut reader, mut writer) = link::connect(&self.files(&job.key).socket()).await?;
            writer.send(&request).await?;
            let answer = reader.next().await?;
            io::Result::Ok((answer, reader, writer))
        };
        match answered.await {
            Ok((Some(Frame::Message(Answer::Done)), reader, writer)) => Ok((reader, writer)),
            Ok((Some(Frame::Message(Answer::Failed(reason))), ..)) => Err(JobError::Refused {
                id: id.clone(),
                reason,
            }),
            // The supervisor is leaving, or was killed: the row will say so at once.
            Ok(_) | Err(_) => Err(JobError::not_running(id, self.get(&job.key).await?.state)),
        }
    }
}
