//! A terminal on which the test types and reads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

/// A program on a new terminal.
pub struct Pty {
    keyboard: File,
    terminal: OwnedFd,
    program: Child,
    seen: Arc<Mutex<String>>,
}

impl Pty {
    /// Starts `command` on a new terminal of 80 by 24 characters.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).unwrap_or_else(|error| panic!("no terminal: {error}"));
        let share = |fd: &OwnedFd| {
            fd.try_clone()
                .unwrap_or_else(|error| panic!("cannot share the terminal: {error}"))
        };
        let program = command
            .stdin(share(&pair.slave))
            .stdout(share(&pair.slave))
            .stderr(share(&pair.slave))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // `command` keeps its ends of the terminal open until it gets others.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());

        let seen = Arc::new(Mutex::new(String::new()));
        let keep = Arc::clone(&seen);
        let mut screen = File::from(share(&pair.master));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..n]);
                keep.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        Self {
            keyboard: File::from(pair.master),
            terminal: pair.slave,
            program,
            seen,
        }
    }

    /// Presses keys.
    #[track_caller]
    pub fn press(&mut self, keys: &[u8]) {
        let pressed = self.keyboard.write_all(keys);
        pressed.unwrap_or_else(|error| panic!("keyboard: {error}"));
    }

    /// Types a line.
    #[track_caller]
    pub fn type_line(&mut self, text: &str) {
        writeln!(self.keyboard, "{text}").unwrap_or_else(|error| panic!("keyboard: {error}"));
    }

    /// All text that the terminal has shown.
    pub fn seen(&self) -> String {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the terminal shows `text`.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        eventually(&format!("the terminal shows {text:?}"), || {
            let seen = self.seen();
            if seen.contains(text) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
    }

    /// Waits until the terminal shows the prompt of root's shell last. Bash may drop what
    /// is typed before it.
    #[track_caller]
    pub fn prompts(&self) {
        eventually("the shell prompts", || {
            let seen = self.seen();
            match seen.ends_with("# ") {
                true => Ok(()),
                false => Err(format!("{seen:?}")),
            }
        });
    }

    /// Changes the terminal's size and sends the program SIGWINCH.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        let terminal = self
            .terminal
            .try_clone()
            .unwrap_or_else(|e| panic!("terminal: {e}"));
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(terminal);
        let status = stty.status().unwrap_or_else(|e| panic!("{stty:?}: {e}"));
        assert!(status.success(), "{stty:?}: {status}");
        // The kernel sends no signal, since it is not the program's controlling terminal.
        self.signal(Signal::SIGWINCH);
    }

    /// The program's exit code; waits until it has exited.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        eventually("the program on the terminal exits", || {
            match self.program.try_wait() {
                Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
                Ok(None) => Err("it runs".into()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.program.id().cast_signed()), signal);
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
