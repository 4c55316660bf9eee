//! Stops an OCI runtime before a command until the test lets it continue.
//!
//! A test of what the shim answers during a checkpoint must not race with it. So
//! the container runs with a script in runc's place. The script creates a file before
//! the named command and then waits.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;

use crate::{eventually, unique};

/// A gate before one of runc's commands.
pub struct Gate {
    home: PathBuf,
}

impl Gate {
    /// A closed gate before `verb`, for example `checkpoint`.
    #[track_caller]
    pub fn before(verb: &str) -> Self {
        let home = Path::new("/var/tmp/cedana-tests").join(unique("gate"));
        let gate = Self { home };
        let home = gate.home.display();
        let script = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do\n\
             \tif [ \"$word\" = {verb} ] && [ -p {home}/gate ]; then\n\
             \t\techo stopped >{home}/arrived\n\
             \t\tread -r word <{home}/gate\n\
             \t\tbreak\n\
             \tfi\n\
             done\n\
             exec runc \"$@\"\n"
        );
        let made = fs::create_dir_all(&gate.home)
            .and_then(|()| fs::write(gate.program(), script))
            .and_then(|()| fs::set_permissions(gate.program(), fs::Permissions::from_mode(0o755)));
        made.unwrap_or_else(|error| panic!("{home}: {error}"));
        nix::unistd::mkfifo(&gate.home.join("gate"), nix::sys::stat::Mode::S_IRWXU)
            .unwrap_or_else(|error| panic!("{home}/gate: {error}"));
        gate
    }

    /// The path of the script that runs in runc's place.
    pub fn program(&self) -> PathBuf {
        self.home.join("runtime")
    }

    /// Waits until the runtime waits at the gate.
    #[track_caller]
    pub fn arrived(&self) {
        let arrived = self.home.join("arrived");
        eventually("the runtime waits at the gate", || {
            fs::read(&arrived).map_err(|e| e.to_string())
        });
    }

    /// Lets the runtime continue once.
    #[track_caller]
    pub fn open(&self) {
        let _ = fs::remove_file(self.home.join("arrived"));
        let gate = self.home.join("gate");
        eventually("the gate opens", || {
            // Without O_NONBLOCK this would block if the reader was killed.
            let mut fifo = fs::File::options()
                .write(true)
                .custom_flags(O_NONBLOCK)
                .open(&gate)
                .map_err(|e| e.to_string())?;
            fifo.write_all(b"go\n").map_err(|e| e.to_string())
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let gate = self.home.join("gate");
        if let Ok(mut fifo) = fs::File::options()
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(&gate)
        {
            let _ = fifo.write_all(b"go\n");
        }
        // The script stays, since a container may still name it. Without the fifo it
        // does not wait.
        let _ = fs::remove_file(gate);
    }
}
