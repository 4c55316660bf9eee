//! Early resume: decides which tasks run again as soon as CRIU has dumped them.
//!
//! containerd's client pauses a task, has it checkpointed, and resumes it when the
//! checkpoint is stored, packed, hashed and copied. The shim can resume the task
//! when CRIU is done, but only if two things are certain:
//!
//! - **nothing reads the container's files afterwards.** A file that grows while
//!   containerd packs it fails the checkpoint ("archive/tar: write too long"), and
//!   a file that changes no longer matches the dumped memory;
//! - **the client that asks for the checkpoint made the pause**, and will end that
//!   pause. A user's pause for another purpose stays until the user resumes the task.
//!
//! The clients' behaviour, according to the sources of containerd 1.6 to 2.4, Docker
//! (moby) 20 to 29 and nerdctl 2.2 and 2.3:
//!
//! | client | caller that pauses | options of the request | container data read after the request |
//! |---|---|---|---|
//! | `task.Checkpoint` (containerd, `client/task.go`): `ctr task checkpoint`, nerdctl, Docker, CRI | it requests the state, pauses a task that isn't paused, and resumes that task last | the caller's | its writable layer, if its record names a snapshot; except: |
//! | `task.Checkpoint` with an image path, runtime name `io.containerd.runc.v2` | the same | `containerd.runc.v1`, with the image path | nothing (`isCheckpointPathExist`) |
//! | `task.Checkpoint` with an image path, any other name | the same | 2.x: the same; 1.7: `ctr` sends none, other programs `containerd.linux.runc` | its writable layer |
//! | nerdctl `checkpoint create` | `task.Checkpoint` | `exit` to `io.containerd.runc.v2`, none to others | its writable layer |
//! | Docker `checkpoint create` | `task.Checkpoint` | `exit` to runtimes by path, none to those by type | nothing: its records name no snapshot, but Docker's requests equal nerdctl's |
//! | CRI `CheckpointContainer` (2.0 on) | `task.Checkpoint` | a work path to `io.containerd.runc.v2`, none to others; never an image path | its writable layer |
//! | `container.Checkpoint` (`client/container.go`) | its caller | `containerd.runc.v1`, always with file locks | depends on the order of the caller's options: the writable layer before the task or after it |
//! | `ctr container checkpoint` | it pauses first and resumes last; its requests equal those of a program that calls `task.Pause` and `container.Checkpoint` and wants the task to stay paused | `container.Checkpoint`'s | nothing: it copies the writable layer before the task |
//!
//! So only in the second row is early resume certain to be safe. The shim recognizes
//! this row by the request ([`RequestKind`]) and by the container's runtime name.
//! containerd doesn't pass that name to a shim, so the shim infers it from the file
//! name by which containerd started the shim (a path, or another name that ends in
//! `.runc.v2`, leads to the same file) and from the options of Create, which clients
//! send as `containerd.runc.v1.Options` to `io.containerd.runc.v2` alone. A setting
//! adds the last row.
//!
//! The order of requests distinguishes the pause of `task.Checkpoint` from a user's.
//! `task.Checkpoint` requests the state before its own pause and not afterwards. A
//! user's pause is followed by the State request of the next `task.Checkpoint`. So
//! the shim treats a pause with a later State request as a user's.

use std::path::Path;

use cedana_config::ResumeEarly;

use crate::options::CheckpointOptions;

/// The file name of containerd's own shim, which containerd derives from
/// `io.containerd.runc.v2` (`pkg/shim/util.go`, `BinaryName`).
const STOCK_SHIM: &str = "containerd-shim-runc-v2";

/// Whether `program` has the file name of containerd's own shim.
pub(crate) fn is_stock_name(program: &Path) -> bool {
    program.file_name() == Some(STOCK_SHIM.as_ref())
}

/// The kind of a checkpoint request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// `task.Checkpoint` with an image path of the client's.
    TaskToPath,
    /// `container.Checkpoint`, whose options are fixed.
    Container,
    /// Any other request.
    Other,
}

impl RequestKind {
    /// Determines the kind from the options and the path of a request. The two paths
    /// differ if containerd also packs a directory of its own.
    pub(super) fn of(options: &CheckpointOptions, path: &str) -> Self {
        let plain = CheckpointOptions {
            exit: Some(false),
            ..CheckpointOptions::default()
        };
        let to_path = CheckpointOptions {
            image_path: path.to_owned(),
            work_path: options.work_path.clone(),
            ..plain.clone()
        };
        let of_a_container = CheckpointOptions {
            file_locks: true,
            ..plain
        };
        if *options == to_path && !path.is_empty() {
            Self::TaskToPath
        } else if *options == of_a_container {
            Self::Container
        } else {
            Self::Other
        }
    }

    /// Whether the shim may resume the task early: nothing reads the container's
    /// files after the request, and the requesting client made the pause.
    ///
    /// `stock` says that clients know the container's runtime as containerd's own.
    pub(super) fn may_resume_early(self, stock: bool, setting: ResumeEarly) -> bool {
        match (self, setting) {
            (_, ResumeEarly::Never) | (Self::Other, _) => false,
            (Self::TaskToPath, _) => stock,
            (Self::Container, setting) => setting == ResumeEarly::Container,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_path() -> CheckpointOptions {
        CheckpointOptions {
            exit: Some(false),
            image_path: "/images".into(),
            ..CheckpointOptions::default()
        }
    }

    fn of_a_container() -> CheckpointOptions {
        CheckpointOptions {
            exit: Some(false),
            file_locks: true,
            ..CheckpointOptions::default()
        }
    }

    #[test]
    fn a_task_to_a_path_has_two_equal_paths() {
        let with_work_path = CheckpointOptions {
            work_path: "/work".into(),
            ..to_path()
        };
        for options in [to_path(), with_work_path] {
            assert_eq!(
                RequestKind::of(&options, "/images"),
                RequestKind::TaskToPath
            );
            // containerd 1.7 packs a directory of its own for other names.
            assert_eq!(
                RequestKind::of(&options, "/tmp/ctrd-checkpoint1"),
                RequestKind::Other
            );
            assert_eq!(RequestKind::of(&options, ""), RequestKind::Other);
        }
    }

    #[test]
    fn requests_outside_the_table_are_other() {
        let nothing = CheckpointOptions::default();
        let docker = CheckpointOptions {
            exit: Some(false),
            ..nothing.clone()
        };
        let own_options = CheckpointOptions {
            file_locks: true,
            ..to_path()
        };
        for options in [nothing, docker, own_options] {
            assert_eq!(RequestKind::of(&options, "/images"), RequestKind::Other);
        }
        assert_eq!(
            RequestKind::of(&of_a_container(), "/x"),
            RequestKind::Container
        );
    }

    #[test]
    fn a_path_needs_the_stock_name_and_a_container_request_the_setting() {
        use ResumeEarly::{Certain, Container, Never};
        for (kind, stock, setting, early) in [
            (RequestKind::TaskToPath, true, Certain, true),
            (RequestKind::TaskToPath, true, Container, true),
            (RequestKind::TaskToPath, true, Never, false),
            (RequestKind::TaskToPath, false, Certain, false),
            (RequestKind::TaskToPath, false, Container, false),
            (RequestKind::Container, true, Certain, false),
            (RequestKind::Container, false, Certain, false),
            (RequestKind::Container, false, Container, true),
            (RequestKind::Container, true, Never, false),
            (RequestKind::Other, true, Container, false),
        ] {
            assert_eq!(
                kind.may_resume_early(stock, setting),
                early,
                "{kind:?} {stock} {setting:?}"
            );
        }
    }

    #[test]
    fn the_stock_name_is_a_file_name() {
        assert!(is_stock_name(Path::new(
            "/usr/local/lib/cedana/containerd-shim-runc-v2"
        )));
        assert!(!is_stock_name(Path::new(
            "/usr/local/bin/containerd-shim-cedana-v2"
        )));
        assert!(!is_stock_name(Path::new("/containerd-shim-runc-v2/x")));
        assert!(!is_stock_name(Path::new("")));
    }
}
