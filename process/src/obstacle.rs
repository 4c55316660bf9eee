//! What stops a dump, for people: the reason and the remedy.

use std::fmt;

use cedana_contract::pid::Pid;

/// What stops a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the texts below describe them")]
pub enum Obstacle {
    Missing,
    Init,
    Own,
    Ancestor,
    KernelThread,
    Dead,
    DeadLeader {
        pid: Pid,
        name: String,
    },
    Stopped {
        pid: Pid,
        name: String,
    },
    Traced {
        pid: Pid,
        name: String,
        tracer: Option<Pid>,
    },
    Namespace {
        pid: Pid,
        kind: &'static str,
    },
    Session {
        leader: Option<Pid>,
    },
    Terminal {
        pid: Pid,
        fd: i32,
        path: String,
    },
    Pipe {
        pid: Pid,
        fd: i32,
        other: Pid,
    },
    Unsupported {
        pid: Pid,
        fd: i32,
        what: String,
        remedy: &'static str,
    },
    ForeignMount {
        pid: Pid,
        fd: i32,
        path: String,
    },
    Memfd {
        pid: Pid,
        name: String,
    },
    Foreign {
        pid: Pid,
        name: String,
        has: String,
        owner: u32,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such process"),
            Self::Init => f.write_str("it is init, and everything descends from it"),
            Self::Own => f.write_str("it is this program"),
            Self::Ancestor => f.write_str(
                "it is an ancestor of this program, which would be stopped, too; run this program elsewhere",
            ),
            Self::KernelThread => f.write_str("it is a thread of the kernel"),
            Self::Dead => f.write_str("it has ended, and waits for its parent"),
            Self::DeadLeader { pid, name } => write!(
                f,
                "the main thread of process {pid} ({name}) has exited and others run on, which CRIU does not support"
            ),
            Self::Stopped { pid, name } => write!(
                f,
                "process {pid} ({name}) is stopped; let it run (`cedana unfreeze`, or kill -CONT {pid}: SIGCONT)"
            ),
            Self::Traced { pid, name, tracer } => {
                write!(f, "process {pid} ({name}) is traced")?;
                if let Some(tracer) = tracer {
                    write!(f, " by process {tracer}")?;
                }
                f.write_str("; end the debugger or strace")
            }
            Self::Namespace { pid, kind } => write!(
                f,
                "process {pid} is in another {kind} namespace; checkpoint its container with the container's engine"
            ),
            Self::Session { leader } => {
                f.write_str("the leader of its session ")?;
                match leader {
                    Some(leader) => write!(f, "(process {leader}) is not part of it")?,
                    None => f.write_str("is not part of it")?,
                }
                f.write_str("; start it with `cedana exec` or setsid, or use --shell-job to restore it from a terminal")
            }
            Self::Terminal { pid, fd, path } => write!(
                f,
                "descriptor {fd} of process {pid} is the terminal {path}, which belongs to another program; start it with `cedana exec -t`, redirect it to a file, or use --shell-job to restore it from a terminal"
            ),
            Self::Pipe { pid, fd, other } => write!(
                f,
                "descriptor {fd} of process {pid} is a pipe to process {other}, which is not part of the checkpoint; checkpoint their common parent, start it with `cedana exec`, or redirect it to a file"
            ),
            Self::Unsupported {
                pid,
                fd,
                what,
                remedy,
            } => write!(f, "descriptor {fd} of process {pid} is {what}; {remedy}"),
            Self::Memfd { pid, name } => write!(
                f,
                "the program of process {pid} ({name}) exists in memory only (a memfd), and CRIU can't start it again; have it started from a file"
            ),
            Self::Foreign {
                pid,
                name,
                has,
                owner,
            } => write!(
                f,
                "process {pid} ({name}) {has}, so user {owner} may not read its memory; checkpoint it as root"
            ),
            Self::ForeignMount { pid, fd, path } => write!(
                f,
                "descriptor {fd} of process {pid} ({path}) is on a mount that the process doesn't have; close it, or start the process with `cedana exec`"
            ),
        }
    }
}
