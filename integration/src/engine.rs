//! Stops and starts the instance's containerd while containers run, and starts a
//! second one with another configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{BUSYBOX, Output, command, ctr_ok, eventually, unique};

/// A lock on the instance.
///
/// Tests that stop containerd, or change the machine, must not run beside others.
/// They are a test program of their own, and each of them holds this.
pub struct Containerd {
    _alone: MutexGuard<'static, ()>,
}

impl Containerd {
    /// Waits for the other tests of this program to end.
    pub fn alone() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        Self {
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Stops it by SIGTERM, calls `meanwhile`, and starts it again.
    #[track_caller]
    pub fn restart(&self, meanwhile: impl FnOnce()) {
        self.end_and_start("stop", meanwhile);
    }

    /// Kills it, calls `meanwhile`, and starts it again.
    #[track_caller]
    pub fn crash(&self, meanwhile: impl FnOnce()) {
        self.end_and_start("kill", meanwhile);
    }

    #[track_caller]
    fn end_and_start(&self, how: &str, meanwhile: impl FnOnce()) {
        // The testbed's `engine` returns when containerd has exited, or answers.
        command("engine", &[how, "containerd"]).ok();
        meanwhile();
        command("engine", &["start", "containerd"]).ok();
    }
}

/// A second containerd beside the instance's. It has the image of busybox, not
/// unpacked.
pub struct SecondContainerd {
    home: PathBuf,
    containerd: Child,
}

impl SecondContainerd {
    /// Starts it with plugin settings in TOML; `settings` gets its home.
    #[track_caller]
    pub fn start(settings: impl FnOnce(&Path) -> String) -> Self {
        // On the disk itself: an overlay can have its upper layer there.
        let home = Path::new("/var/lib/containerd").join(unique("second"));
        fs::create_dir_all(&home).unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        let place = home.display();
        let config = format!(
            "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{place}/socket\"\n\
             [ttrpc]\naddress = \"{place}/socket.ttrpc\"\n{}",
            settings(&home)
        );
        let file = home.join("config.toml");
        fs::write(&file, config).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let log = fs::File::create(home.join("log")).unwrap_or_else(|e| panic!("its log: {e}"));
        let containerd = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("containerd: {e}"));
        let second = Self { home, containerd };
        eventually("the second containerd answers", || {
            match second.ctr(&["version"]) {
                answer if answer.code == 0 => Ok(()),
                answer => Err(format!("{answer}\n{}", second.log())),
            }
        });
        let image = second.home.join("busybox.tar").display().to_string();
        // ctr 2.1 streams both, and can end a stream early on a loaded machine.
        eventually("the second containerd has the image", || {
            ctr_ok(&["images", "export", &image, BUSYBOX]);
            match second.ctr(&["images", "import", "--no-unpack", &image]) {
                answer if answer.code == 0 => Ok(()),
                answer => Err(answer.to_string()),
            }
        });
        second
    }

    /// Runs `ctr` on it, in the tests' namespace.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        let socket = self.home.join("socket").display().to_string();
        let all = [&["--address", &socket], arguments].concat();
        command("ctr", &all)
    }

    /// The directory with its root, state, socket and log.
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }
}

impl Drop for SecondContainerd {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.containerd.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.containerd.wait();
        if std::thread::panicking() {
            eprintln!("the second containerd's log:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}
