//! Compares what clients see of a task with containerd's own shim.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cedana_integration::protos::shim::oci::CheckpointOptions;
use cedana_integration::{BareShim, Run, STOCK, runtime};

/// The runtime under test and containerd's own.
fn both() -> [String; 2] {
    [STOCK.into(), runtime()]
}

#[test]
fn an_exec_that_failed_to_start_looks_as_with_containerds_shim() {
    let process = r#"{"args":["/no/such/program"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
    let seen = both().map(|runtime| {
        let container = Run::new("exec-created")
            .under(&runtime)
            .workload(&[])
            .detach();
        let task = container.task();
        let ok = |done: Result<(), _>| done.unwrap_or_else(|refused| panic!("{refused}"));
        ok(task.exec("e", process, ["", "", ""]));
        let reason = task.start("e").map(|started| started.pid);
        let reason = reason.expect_err("there is no such program").message;
        assert!(reason.contains("/no/such/program"), "{reason}");
        // Wait returns.
        ok(task.wait("e").map(drop));
        let state = task
            .state("e")
            .unwrap_or_else(|refused| panic!("{refused}"));
        let signalled = task.kill("e", 15, false).map_err(|refused| refused.code);
        let deleted = task
            .delete("e")
            .unwrap_or_else(|refused| panic!("{refused}"));
        // The exec id is free again.
        ok(task.exec("e", process, ["", "", ""]));
        ok(task.delete("e").map(drop));
        container.report().intact();
        let has_exited = |at: Option<i64>| at.is_some_and(|seconds| seconds > 0);
        (
            state.status.enum_value(),
            (state.pid, state.exit_status),
            has_exited(state.exited_at.as_ref().map(|at| at.seconds)),
            signalled,
            (deleted.pid, deleted.exit_status),
            has_exited(deleted.exited_at.as_ref().map(|at| at.seconds)),
        )
    });
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn an_exec_that_failed_to_start_can_be_started_again() {
    let container = Run::new("exec-again").workload(&[]).detach();
    let task = container.task();
    let process = r#"{"args":["/out/program"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
    let ok = |done: Result<(), _>| done.unwrap_or_else(|refused| panic!("{refused}"));
    ok(task.exec("e", process, ["", "", ""]));
    assert!(task.start("e").is_err());
    let program = container.out().join("program");
    let made = fs::write(&program, "#!/bin/sh\nexit 7\n")
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)));
    made.unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    ok(task.start("e").map(drop));
    assert_eq!(task.wait("e").map(|end| end.exit_status).ok(), Some(7));
    assert_eq!(task.delete("e").map(|end| end.exit_status).ok(), Some(7));
}

#[test]
fn a_missing_runtime_is_named_in_quotes() {
    for runtime in both() {
        let reason = Run::new("no-runc")
            .under(&runtime)
            .runtime_binary(Path::new("no-runc"))
            .workload(&[])
            .fails();
        assert!(reason.contains("\"no-runc\""), "{runtime}: {reason}");
    }
}

#[test]
fn a_checkpoint_has_the_parent_that_its_client_names() {
    let first = BareShim::start("parent", &["--memory", "4"]);
    first.run();
    let before = first.report();
    let images = first.bundle().join("images");
    let place = |name: &str| {
        let place = images.join(name);
        fs::create_dir_all(&place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
        place
    };
    let (parent, child) = (place("parent"), place("child"));
    let done = first.task().checkpoint(&parent, None);
    done.unwrap_or_else(|refused| panic!("{refused}"));

    // Field 10 is new in containerd 2.4; 99 stands for a field of a newer client.
    let mut options = CheckpointOptions::default();
    let unknown = options.special_fields.mut_unknown_fields();
    unknown.add_length_delimited(10, b"../parent".to_vec());
    unknown.add_varint(99, 1);
    let done = first.task().checkpoint(&child, Some(options));
    first.report().continues(&before);
    match done {
        Ok(()) => {}
        // CRIU finds changed pages by the kernel's soft-dirty bits.
        Err(refused) if refused.message.contains("Tracking memory is not available") => {
            println!("skipped: this kernel has no soft-dirty bits; CRIU was given the parent");
            return;
        }
        Err(refused) => panic!("{refused}"),
    }
    let link = fs::read_link(child.join("parent"));
    let link = link.unwrap_or_else(|e| panic!("the parent of {}: {e}", child.display()));
    assert_eq!(link, Path::new("../parent"));

    let before = first.report();
    let killed = first
        .task()
        .kill("", 9, true)
        .and_then(|()| first.task().wait(""));
    killed.unwrap_or_else(|refused| panic!("{refused}"));
    let next = first.successor("parent-next");
    let mut request = next.request();
    request.checkpoint = child.display().to_string();
    let restored = next
        .task()
        .create(&request)
        .and_then(|_| next.task().start(""));
    restored.unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(next.report_into(&first).nonce(), before.nonce());
}

#[test]
fn a_missing_parent_is_named() {
    let shim = BareShim::start("no-parent", &[]);
    shim.run();
    let before = shim.report();
    let images = shim.bundle().join("images");
    fs::create_dir_all(&images).unwrap_or_else(|e| panic!("{}: {e}", images.display()));
    let mut options = CheckpointOptions::default();
    let unknown = options.special_fields.mut_unknown_fields();
    unknown.add_length_delimited(10, b"../nowhere".to_vec());
    let refused = shim.task().checkpoint(&images, Some(options));
    let reason = refused.expect_err("there is no such parent").message;
    assert!(reason.contains("nowhere"), "{reason}");
    shim.report().continues(&before);
}
