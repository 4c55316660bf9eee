//! Dumps and restores plain processes, for the stories of tests/process.rs.
//!
//! ```text
//! cedana-process dump PID DIR [--directory] [--leave-running] [--none] [--held] [--user=UID]
//!         [--output=FILE] [--record=FILE]
//! cedana-process check PID
//! cedana-process restore PATH [--eager] [--own] [--namespace] [--tcp-close]
//!         [--leave-stopped] [--user=UID] [--terminal=TTY] [--stdio=PIPE] [--append=FILE]
//! ```
//!
//! --record writes a new file before the process ends; --append is a file for standard
//! output and error.
//! The last word of what it prints is the checkpoint's path, or the PID.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use cedana_process::{
    Cancel, Compression, DumpOptions, Hook, Owner, Pid, Placement, RestoreOptions, Source, Target,
    Tcp, dump, examine, restore, run_as_helper,
};

fn main() -> ExitCode {
    if let Some(code) = run_as_helper() {
        return code;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (words, flags): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|argument| !argument.starts_with("--"));
    let result = match &words[..] {
        ["dump", pid, dir] => run_dump(pid, dir, &flags),
        ["check", pid] => run_check(pid),
        ["restore", path] => run_restore(path, &flags),
        _ => Err("usage: see the source".to_owned()),
    };
    match result {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cedana-process: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A cancel that SIGTERM triggers.
fn cancel() -> Result<Cancel, String> {
    use nix::sys::signal::{SigSet, Signal};
    let cancel = Cancel::new().map_err(|error| error.to_string())?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|error| error.to_string())?;
    let other = cancel.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            other.cancel();
        }
    });
    Ok(cancel)
}

/// The user of `--user=UID`, with a group of the same number, or root.
fn owner(flags: &[&str]) -> Result<Owner, String> {
    let user = flags.iter().find_map(|word| word.strip_prefix("--user="));
    let Some(user) = user else {
        return Ok(Owner::ROOT);
    };
    let uid = user.parse().map_err(|_| format!("{user} is no user"))?;
    Ok(Owner {
        uid,
        gid: uid,
        groups: vec![uid],
    })
}

fn run_dump(pid: &str, dir: &str, flags: &[&str]) -> Result<String, String> {
    let pid: Pid = pid.parse().map_err(|_| "not a PID".to_owned())?;
    let has = |flag: &str| flags.contains(&flag);
    let target = match has("--directory") {
        true => Target::Directory(PathBuf::from(dir)),
        false => Target::Archive {
            dir: PathBuf::from(dir),
            owner: owner(flags)?,
        },
    };
    let value = |flag: &str| flags.iter().find_map(|word| word.strip_prefix(flag));
    let options = DumpOptions {
        output: value("--output=").map(PathBuf::from),
        published: value("--record=").map(|path| record(pid, path)),
        held: if has("--held") {
            vec![0, 1, 2]
        } else {
            Vec::new()
        },
        leave_running: has("--leave-running"),
        compression: match has("--none") {
            true => Compression::None,
            false => Compression::Zstd { level: 1 },
        },
        ..DumpOptions::default()
    };
    let cancel = cancel()?;
    let observer: Arc<cedana_process::Observer> = Arc::new(|_| {});
    let report = dump(pid, &target, &options, &cancel, &observer);
    let report = report.map_err(|error| error.to_string())?;
    Ok(format!(
        "frozen {} dumped {} total {} raw {} stored {} processes {} {}",
        report.criu.map_or(0, |cost| cost.frozen_us),
        report.dumped.as_micros(),
        report.total.as_micros(),
        report.raw_bytes,
        report.stored_bytes,
        report.processes,
        report.path.display()
    ))
}

fn run_check(pid: &str) -> Result<String, String> {
    let pid: Pid = pid.parse().map_err(|_| "not a PID".to_owned())?;
    let found = examine(pid, &DumpOptions::default(), &Owner::ROOT);
    let obstacles = found.obstacles.iter().map(ToString::to_string);
    let lines = [format!(
        "processes {} memory {}",
        found.processes, found.memory
    )];
    let obstacles = obstacles.map(|text| format!("obstacle: {text}"));
    let warnings = found.warnings.iter().map(|text| format!("warning: {text}"));
    let lines = lines.into_iter().chain(obstacles).chain(warnings);
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// A hook that records the checkpoint and the state of the process.
fn record(pid: Pid, path: &str) -> Hook {
    let path = PathBuf::from(path);
    Hook::new(move |published| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let state = state.rsplit(')').next().unwrap_or_default();
        let state = state.split_whitespace().next().unwrap_or_default();
        let text = format!("{} {state}\n", published.path.display());
        let mut file = std::fs::File::create_new(&path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    })
}

fn run_restore(path: &str, flags: &[&str]) -> Result<String, String> {
    let has = |flag: &str| flags.contains(&flag);
    let value = |flag: &str| flags.iter().find_map(|word| word.strip_prefix(flag));
    let open = |path: &str| std::fs::File::options().read(true).write(true).open(path);
    let open = |path: &str| open(path).map(std::os::fd::OwnedFd::from);
    let terminal = value("--terminal=").map(open).transpose();
    let append = |path: &str| std::fs::File::options().append(true).open(path);
    let append = |path: &str| append(path).map(std::os::fd::OwnedFd::from);
    let given = |path: Option<&str>, open: &dyn Fn(&str) -> std::io::Result<_>| {
        let numbers = path.map(|path| [1, 2].map(|number| Ok((number, open(path)?))));
        let numbers = numbers.into_iter().flatten();
        numbers.collect::<std::io::Result<Vec<_>>>()
    };
    let stdio = match value("--append=") {
        None => given(value("--stdio="), &open),
        path => given(path, &append),
    };
    let options = RestoreOptions {
        owner: owner(flags)?,
        terminal: terminal.map_err(|error| error.to_string())?,
        stdio: stdio.map_err(|error| error.to_string())?,
        lazy: !has("--eager"),
        leave_stopped: has("--leave-stopped"),
        tcp: match has("--tcp-close") {
            true => Tcp::Close,
            false => Tcp::Keep,
        },
        placement: match (has("--own"), has("--namespace")) {
            (true, _) => Placement::Own,
            (_, true) => Placement::Namespace,
            _ => Placement::Auto,
        },
        ..RestoreOptions::default()
    };
    let cancel = cancel()?;
    let source = Source::open(path.as_ref(), &options.owner);
    let restored = source.and_then(|source| restore(&source, &options, &cancel));
    let restored = restored.map_err(|error| error.to_string())?;
    let why = restored.warnings.join("; ");
    Ok(format!(
        "lazy {} {why} child={} {}",
        restored.lazy, restored.child, restored.pid
    ))
}
