//! A dump of the job, by a worker that the supervisor starts.
//!
//! ```text
//! daemon ── Dump ──► supervisor ── spawns ──► worker
//!        ◄─ Told ──            ◄── Told ────
//! ```
//!
//! The supervisor starts it, and not the daemon, because it must know why its program ends:
//! a checkpoint that ends the program ends the job, whatever its restart policy says. If
//! the daemon's connection ends, the dump is cancelled.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::descendants::{self, Stat};
use super::protocol::{Answer, Decoder, Frame, put_message};
use super::state::{Dumping, Stage, Supervisor};
use crate::job::bytes::Bytes;
use crate::job::files::append_record;
use crate::worker::{self, Dump, Failure, Kind, Stored, Task, Told};

impl Supervisor {
    /// Starts a dump for a client.
    pub(super) fn start_dump(&mut self, client: u64, task: Dump) -> Result<(), Failure> {
        let refused = |text: &str| Failure::new(Kind::State, text);
        let Stage::Running(program) = &self.stage else {
            return Err(refused("its program does not run"));
        };
        if self.dumping.is_some() {
            return Err(refused("it is being dumped already"));
        }
        let bytes = |path: std::path::PathBuf| Bytes::of_path(&path);
        let has_terminal = self.spec.terminal.is_some();
        let keeps_output = !has_terminal && self.spec.log_file.is_none();
        let task = Task::Dump(Dump {
            pid: program.pid,
            output: keeps_output.then(|| bytes(self.files.output())),
            terminal: has_terminal,
            record: Some(bytes(self.files.checkpoints())),
            ..task
        });
        let failed = |error| Failure::new(Kind::System, format!("cannot start a worker: {error}"));
        let (child, mut stream) = worker::start(&[]).map_err(failed)?;
        let mut frame = Vec::new();
        put_message(&mut frame, &task);
        // A worker that has died is reaped, and its client told.
        let _ = stream.write_all(&frame);
        let _ = stream.set_nonblocking(true);
        self.dumping = Some(Dumping {
            client,
            child,
            stream,
            decoder: Decoder::default(),
            has_result: false,
            is_silent: false,
        });
        Ok(())
    }

    /// Passes on what the worker has told.
    pub(super) fn hear_worker(&mut self) {
        let Some(dumping) = &mut self.dumping else {
            return;
        };
        let mut buffer = [0; 4096];
        loop {
            match dumping.stream.read(&mut buffer) {
                Ok(0) => dumping.is_silent = true,
                Ok(n) => {
                    dumping.decoder.push(&buffer[..n]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => dumping.is_silent |= error.kind() != ErrorKind::WouldBlock,
            }
            break;
        }
        let mut has_failed = false;
        while let Ok(Some(frame)) = dumping.decoder.take_frame() {
            let Frame::Message(told) = frame else {
                continue;
            };
            match &told {
                Told::Stored(stored) => self.ending = Some(stored.clone()).filter(|it| it.ends),
                Told::Dumped(_) => dumping.has_result = true,
                Told::Failed(_) => {
                    dumping.has_result = true;
                    has_failed = true;
                }
                Told::Progress(_) | Told::Restored(_) | Told::Transferred(_) => {}
            }
            self.clients.answer(dumping.client, &Answer::Told(told));
        }
        if has_failed {
            self.take_back();
        }
    }

    /// Notes that a checkpoint has not ended the program after all: CRIU may fail, or have
    /// nobody to ask, when the checkpoint is complete.
    fn take_back(&mut self) {
        let Stage::Running(program) = &self.stage else {
            return;
        };
        let stat = std::fs::read(format!("/proc/{}/stat", program.child)).unwrap_or_default();
        // It has ended, and was not reaped yet.
        if Stat::parse(&stat).is_none_or(|stat| stat.state == b'Z') {
            return;
        }
        if let Some(stored) = self.ending.take() {
            let stored = Stored {
                ends: false,
                ..stored
            };
            // On a full disk a daemon could take the job for checkpointed if this
            // supervisor is killed.
            let _ = append_record(&self.files.checkpoints(), &stored);
        }
    }

    /// Cancels the dump of a client that has gone.
    pub(super) fn cancel_dump_of_gone_client(&mut self) {
        if let Some(dumping) = &mut self.dumping
            && !dumping.is_silent
            && !self.clients.has(dumping.client)
        {
            // What the worker has told until now counts.
            let _ = dumping.stream.shutdown(Shutdown::Write);
        }
    }

    /// Notes the end of the worker, if this was it.
    pub(super) fn worker_ended(&mut self, pid: i32) -> bool {
        let is_worker = |dumping: &Dumping| dumping.child.id().cast_signed() == pid;
        if !self.dumping.as_ref().is_some_and(is_worker) {
            return false;
        }
        self.hear_worker();
        if let Some(dumping) = self.dumping.take()
            && !dumping.has_result
        {
            let text = match self.ending {
                Some(_) => "the worker was killed when the checkpoint was complete",
                None => "the worker was killed; the job runs on",
            };
            let failure = Failure::new(Kind::System, text);
            let told = Answer::Told(Told::Failed(failure));
            self.clients.answer(dumping.client, &told);
            self.orphan = descendants::child_named("criu");
            if self.orphan.is_none() {
                self.take_back();
            }
        }
        true
    }

    /// Notes the end of a CRIU without a worker, if this was it: now it is known whether
    /// it has ended the program.
    pub(super) fn orphan_ended(&mut self, pid: i32) -> bool {
        if self.orphan != Some(pid) {
            return false;
        }
        self.orphan = None;
        self.take_back();
        true
    }
}
