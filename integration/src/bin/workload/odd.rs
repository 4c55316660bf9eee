//! State that CRIU dumps but can't restore, each with a counterpart that it can.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::thread;
use std::time::Duration;

use crate::sys;

/// State that stays until the workload exits.
pub(crate) struct Odd {
    _held: Box<dyn Any>,
    /// The /proc directory of a process that must keep running.
    process: Option<PathBuf>,
}

impl Odd {
    fn holding(held: impl Any) -> Self {
        Self {
            _held: Box::new(held),
            process: None,
        }
    }

    pub(crate) fn verify(&self) -> Result<(), String> {
        match &self.process {
            Some(process) if !process.exists() => Err(format!("no {}", process.display())),
            _ => Ok(()),
        }
    }
}

/// A deleted file in a deleted directory, both open. CRIU dumps descriptors in
/// ascending order.
pub(crate) fn deleted_directory(comes_first: bool) -> io::Result<Odd> {
    let directory = format!("/tmp/directory-{}", std::process::id());
    let file = format!("{directory}/file");
    fs::create_dir(&directory)?;
    let held = match comes_first {
        true => [File::open(&directory)?, File::create(&file)?],
        false => [File::create(&file)?, File::open(&directory)?],
    };
    fs::remove_file(file)?;
    fs::remove_dir(directory)?;
    Ok(Odd::holding(held))
}

/// A deleted directory that is open, and another with a file in its place.
pub(crate) fn replaced_directory() -> io::Result<Odd> {
    let directory = format!("/tmp/directory-{}", std::process::id());
    fs::create_dir(&directory)?;
    let held = File::open(&directory)?;
    fs::remove_dir(&directory)?;
    fs::create_dir(&directory)?;
    fs::write(format!("{directory}/file"), "new")?;
    Ok(Odd::holding(held))
}

/// A /proc file of a thread: of another than the first, or of the first.
pub(crate) fn file_of_thread(first: bool) -> io::Result<Odd> {
    let pid = std::process::id();
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(60));
        }
    });
    let mut threads = fs::read_dir("/proc/self/task")?.flatten();
    let wanted = |name: &str| (name == pid.to_string()) == first;
    let thread = threads.find(|entry| entry.file_name().to_str().is_some_and(wanted));
    let thread = thread.ok_or(io::ErrorKind::NotFound)?.file_name();
    let path = Path::new("/proc/self/task").join(thread).join("stat");
    Ok(Odd::holding(File::open(path)?))
}

/// A child whose program is a memfd or a deleted file.
pub(crate) fn lost_program(in_memory: bool) -> io::Result<Odd> {
    let own = fs::read("/proc/self/exe")?;
    let child = match in_memory {
        true => {
            let mut file = sys::memory_file()?;
            file.write_all(&own)?;
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            Command::new(path).arg("--idle").spawn()?
        }
        false => {
            let path = format!("/tmp/program-{}", std::process::id());
            fs::copy("/proc/self/exe", &path)?;
            let child = Command::new(&path).arg("--idle").spawn()?;
            fs::remove_file(path)?;
            child
        }
    };
    Ok(Odd {
        process: Some(PathBuf::from(format!("/proc/{}", child.id()))),
        _held: Box::new(child),
    })
}

/// A tun device, or only an open /dev/net/tun.
pub(crate) fn tun(device: bool) -> io::Result<Odd> {
    fs::create_dir_all("/dev/net")?;
    sys::make_character_device("/dev/net/tun", 10, 200)?;
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    if device {
        sys::attach_tun(&file, "tun9")?;
    }
    Ok(Odd::holding(file))
}

/// A daemon whose session leader has exited, adopted by a subreaper below init or by
/// init itself.
pub(crate) fn daemon(of_subreaper: bool) -> io::Result<Odd> {
    let note = format!("/tmp/daemon-{}", std::process::id());
    let role = match of_subreaper {
        true => "--subreaper",
        false => "--session",
    };
    let mut child = Command::new("/proc/self/exe").args([role, &note]).spawn()?;
    if !of_subreaper {
        child.wait()?;
        fs::rename(format!("{note}.draft"), &note)?;
    }
    let daemon = loop {
        if let Ok(pid) = fs::read_to_string(&note) {
            break PathBuf::from(format!("/proc/{pid}"));
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ok(Odd {
        process: Some(daemon),
        _held: Box::new(child),
    })
}

/// Runs the subreaper, which adopts the daemon.
pub(crate) fn be_subreaper(note: &str) -> io::Result<()> {
    sys::become_subreaper()?;
    Command::new("/proc/self/exe")
        .args(["--session", note])
        .spawn()?
        .wait()?;
    let draft = format!("{note}.draft");
    fs::rename(draft, note)?;
    idle()
}

/// Runs the session leader, which starts a daemon and exits.
pub(crate) fn be_session(note: &str) -> io::Result<()> {
    sys::make_session()?;
    let daemon = Command::new("/proc/self/exe").arg("--idle").spawn()?;
    // The draft is renamed when the daemon has been adopted.
    fs::write(format!("{note}.draft"), daemon.id().to_string())?;
    exit(0)
}

/// An overlay, or a tmpfs with a bind mount of it.
pub(crate) fn mounted(overlay: bool) -> io::Result<Odd> {
    for directory in ["/tmp/disk", "/tmp/place"] {
        fs::create_dir_all(directory)?;
    }
    sys::mount("tmpfs", "/tmp/disk", "tmpfs", false, "")?;
    for directory in ["lower", "upper", "work"] {
        fs::create_dir(format!("/tmp/disk/{directory}"))?;
    }
    match overlay {
        true => sys::mount(
            "overlay",
            "/tmp/place",
            "overlay",
            false,
            "lowerdir=/tmp/disk/lower,upperdir=/tmp/disk/upper,workdir=/tmp/disk/work",
        )?,
        false => sys::mount("/tmp/disk/lower", "/tmp/place", "", true, "")?,
    }
    Ok(Odd::holding(()))
}

/// Starts a daemon that keeps none of the caller's descriptors.
pub(crate) fn leave_daemon() -> io::Result<()> {
    Command::new("/proc/self/exe")
        .arg("--idle")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    exit(0)
}

/// Sleeps until it is killed.
pub(crate) fn idle() -> ! {
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}
