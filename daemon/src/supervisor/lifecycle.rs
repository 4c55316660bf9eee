//! The program's runs: signals, reaping, the next start, and the job's end.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use cedana_api::time::now_micros;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::protocol::{Answer, Phase};
use super::state::{Stage, Supervisor};
use super::{descendants, program, sys};
use crate::job::spec::{Ended, Exit};

/// How long the clients may take to read the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The signals after which the program is not started again if a user sends them.
const ENDING: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGKILL];

impl Supervisor {
    /// Sends a signal to the program's process group.
    pub(super) fn signal(&mut self, signal: i32) -> Result<(), String> {
        let ends = ENDING.contains(&signal);
        match &self.stage {
            Stage::Running(program) => {
                sys::kill(-program.pid, signal)
                    .map_err(|error| format!("cannot send signal {signal}: {error}"))?;
                self.ended_by_user |= ends;
                Ok(())
            }
            Stage::Waiting(_, exit) if ends => {
                let exit = *exit;
                self.end(exit);
                Ok(())
            }
            Stage::Waiting(..) => Err("the program waits for its next start".to_owned()),
            Stage::Clearing(..) | Stage::Leaving(_) => Err("the program has ended".to_owned()),
        }
    }

    pub(super) fn handle_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match signal.ssi_signo.cast_signed() {
                libc::SIGCHLD => {}
                // The machine is shut down: the exit status is still kept.
                _ => drop(self.signal(libc::SIGTERM)),
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => continue,
                Err(_) => break self.cleared(),
            };
            if self.worker_ended(pid.as_raw()) || self.orphan_ended(pid.as_raw()) {
                continue;
            }
            self.stage = match std::mem::replace(&mut self.stage, Stage::Leaving(Instant::now())) {
                Stage::Running(program) if program.child == pid.as_raw() => {
                    Stage::Clearing(program, exit)
                }
                other => other,
            };
        }
        // The worker has ended its dump by itself soon, and CRIU with it.
        if let Stage::Clearing(..) = self.stage
            && self.dumping.is_none()
            && self.orphan.is_none()
        {
            descendants::kill_children();
        }
    }

    /// There is no child left.
    fn cleared(&mut self) {
        let Stage::Clearing(_, exit) = self.stage else {
            return;
        };
        while self.show_output() {}
        if self.ending.is_some() {
            return self.leave(exit, Phase::Checkpointed);
        }
        if self.ended_by_user || !self.spec.restart.applies(exit) {
            return self.end(exit);
        }
        self.wait_for_next_run(exit);
    }

    fn wait_for_next_run(&mut self, exit: Exit) {
        let wait = self.backoff.after(self.started.elapsed());
        self.stage = Stage::Waiting(Instant::now() + wait, exit);
        self.enter(Phase::Restarting(exit));
    }

    pub(super) fn start_again(&mut self) {
        let Stage::Waiting(_, exit) = self.stage else {
            return;
        };
        self.started = Instant::now();
        self.status.restarts += 1;
        match program::start(&self.spec, &self.output, self.size) {
            Ok(program) => {
                let pid = program.pid;
                self.stage = Stage::Running(program);
                self.enter(Phase::Running(pid));
            }
            Err(why) => {
                // The owner finds the reason where the program would have written.
                let _ = writeln!(self.output, "cedana: {why}");
                self.wait_for_next_run(exit);
            }
        }
    }

    pub(super) fn end(&mut self, exit: Exit) {
        self.leave(exit, Phase::Ended(exit));
    }

    fn leave(&mut self, exit: Exit, phase: Phase) {
        let ended = Ended {
            exit,
            checkpointed: phase == Phase::Checkpointed,
            at: now_micros(),
            restarts: self.status.restarts,
        };
        // On a full disk the clients still learn it, and a watching daemon keeps it.
        let _ = self.files.write_ended(&ended);
        // Before clients learn of the end, because then the ID may be used again. A daemon
        // that starts in between reads exit.json.
        let _ = fs::remove_dir_all(&self.files.run);
        self.stage = Stage::Leaving(Instant::now() + FAREWELL);
        self.enter(phase);
    }

    fn enter(&mut self, phase: Phase) {
        self.status.phase = phase;
        self.status.since = now_micros();
        let last = matches!(phase, Phase::Ended(_) | Phase::Checkpointed);
        self.clients
            .announce(&Answer::Status(self.status.clone()), last);
    }
}
