//! Restores of runc's containers that meet another of the same ID, or the daemon's end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use cedana_integration::daemon::Daemon;
use cedana_integration::folder::Folder;
use cedana_integration::runc::{self, RuncContainer, bundle_of};
use cedana_integration::{Gate, Report, command, eventually, unique};
use nix::sys::signal::Signal;

const WORKLOAD: [&str; 4] = ["--memory", "16", "--threads", "2"];

/// How often two restores race.
const ROUNDS: usize = 6;

/// A container that has been dumped and deleted, and the checkpoint's directory.
struct Dumped {
    daemon: Daemon,
    container: RuncContainer,
    report: Report,
    checkpoint: Folder,
    _settings: Folder,
}

impl Dumped {
    /// With a daemon that uses a runtime, or runc.
    #[track_caller]
    fn by(runtime: &str) -> Self {
        let settings = Folder::new("settings");
        let path = settings.file("config.toml");
        fs::write(&path, format!("runtime = \"{runtime}\"\n")).expect("settings");
        let path = path.display().to_string();
        let daemon = Daemon::start_with_settings("at-once", &["--tcp", "off"], &path);
        let container = RuncContainer::start("at-once", &WORKLOAD);
        let report = container.report();
        let checkpoint = Folder::new("at-once");
        let to = checkpoint.text();
        daemon.ok(&["dump", "runc", container.id(), "-d", &to]);
        runc::delete(container.id());
        Self {
            daemon,
            container,
            report,
            checkpoint,
            _settings: settings,
        }
    }

    fn words(&self, bundle: &str, id: &str) -> Vec<String> {
        let from = self.checkpoint.text();
        let words = ["restore", "--bundle", bundle, "-i", id, "-d", &from];
        words.map(str::to_owned).to_vec()
    }

    #[track_caller]
    fn begin(&self, bundle: &str, id: &str) -> Child {
        let words = self.words(bundle, id);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut command = self.daemon.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().expect("cedana")
    }

    /// The bundle, and its root, of which the daemon makes a bundle of its own.
    fn bundles(&self) -> [String; 2] {
        let bundle = self.container.bundle();
        [bundle.clone(), format!("{bundle}/rootfs")]
    }
}

#[test]
fn of_two_restores_at_once_one_succeeds() {
    let dumped = Dumped::by("runc");
    for bundle in dumped.bundles() {
        for round in 0..ROUNDS {
            let new = unique("at-once");
            let both = [dumped.begin(&bundle, &new), dumped.begin(&bundle, &new)];
            let ended = both.map(|child| child.wait_with_output().expect("cedana"));
            let succeeded = ended.iter().filter(|end| end.status.success()).count();
            assert_eq!(succeeded, 1, "{bundle}, round {round}: {ended:?}");
            let loser = ended.iter().find(|end| !end.status.success());
            let said = loser.map(|end| String::from_utf8_lossy(&end.stderr));
            assert!(said.is_some_and(|said| said.contains("already")));
            dumped.container.report_of(&new).continues(&dumped.report);
            runc::delete(&new);
            runc::no_bundle(&new);
        }
    }
}

#[test]
fn a_container_that_another_program_made_meanwhile_stays() {
    for which in 0..2 {
        let gate = Gate::before("restore");
        let dumped = Dumped::by(&gate.program().display().to_string());
        let new = unique("another");
        let bundle = &dumped.bundles()[which];
        let restore = dumped.begin(bundle, &new);
        gate.arrived();
        // The same restore is refused as long as the first runs.
        let second = dumped.begin(bundle, &new).wait_with_output();
        let second = second.expect("cedana");
        let said = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success());
        assert!(said.contains("is being restored"), "{said}");
        let script = "exec runc run --detach --bundle \"$1\" \"$2\" </dev/null >/dev/null 2>&1";
        let made = ["-c", script, "sh", &dumped.container.bundle(), &new];
        command("sh", &made).ok();
        let pid = runc::pid(&new);
        gate.open();
        // An eager attempt after a lazy one does not wait.
        drop(gate);
        let ended = restore.wait_with_output().expect("cedana");
        assert!(!ended.status.success());
        assert_eq!(runc::pid(&new), pid);
        assert!(!bundle_of(&new).exists());
        runc::delete(&new);
    }
}

/// A runtime in runc's place whose restore leaves what runc does that is killed early: a
/// directory without a record.
fn killed_runtime(folder: &Folder) -> String {
    let path = folder.file("runtime");
    let script = "#!/bin/sh
for id in \"$@\"; do [ \"$id\" != restore ] || restore=yes; done
[ -z \"$restore\" ] || { mkdir /run/runc/\"$id\" && exec sleep 1000; }
exec runc \"$@\"
";
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path.display().to_string()
}

#[test]
fn a_daemon_that_is_stopped_leaves_nothing_of_a_restore() {
    let folder = Folder::new("runtime");
    let mut dumped = Dumped::by(&killed_runtime(&folder));
    for bundle in dumped.bundles() {
        let new = unique("stopped");
        let made = Path::new("/run/runc").join(&new);
        let mut restore = dumped.begin(&bundle, &new);
        eventually("the runtime makes its directory", || match made.exists() {
            true => Ok(()),
            false => Err(made.display().to_string()),
        });
        dumped.daemon.end(Signal::SIGTERM);
        assert!(!restore.wait().expect("cedana").success());
        assert!(!made.exists());
        assert!(!bundle_of(&new).exists());
        dumped.daemon.again();
    }
}
