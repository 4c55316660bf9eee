use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::*;
use proptest::prelude::*;

fn args(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn request(line: &str) -> Request {
    match parse(&args(line)) {
        Ok(Invocation::Checkpoint(request) | Invocation::Restore(request)) => request,
        other => panic!("{line}: {other:?}"),
    }
}

fn passes(line: &str) -> bool {
    matches!(parse(&args(line)), Ok(Invocation::PassThrough))
}

#[test]
fn verbs_follow_every_spelling_of_global_flags() {
    for line in [
        "checkpoint c",
        "--root /r checkpoint c",
        "--root=/r --log /l --log-format json checkpoint c",
        "-root /r -debug checkpoint c",
        "--systemd-cgroup --criu criu --rootless auto checkpoint c",
        "--debug=true --cgroup-manager systemd --log-level error checkpoint c",
        "--root /r -- checkpoint c",
    ] {
        assert_eq!(&*request(line).id, "c", "{line}");
    }
}

#[test]
fn values_that_look_like_verbs_are_values() {
    assert!(passes("--root checkpoint state c"));
    assert!(passes("--log restore list"));
    let globals = Globals::parse(&args("--root checkpoint --log=x state"));
    assert_eq!(globals.root.as_deref(), Some("checkpoint".as_ref()));
    assert_eq!(globals.log.as_deref(), Some("x".as_ref()));
}

#[test]
fn other_command_lines_are_passed_through() {
    for line in [
        "",
        "--version",
        "-v",
        "--help checkpoint",
        "run -b /b checkpoint",
        "exec c checkpoint c",
        "--unknown x checkpoint c",
        "checkpoint",
        "checkpoint --help",
        "restore --image-path /i",
        // Podman looks for the runtime's own error text.
        "restore --lsm-mount-context",
        "checkpoint c --work-path",
    ] {
        assert!(passes(line), "{line}");
    }
}

#[test]
fn own_version_is_a_single_argument() {
    assert!(matches!(
        parse(&args("--cedana-version")),
        Ok(Invocation::OwnVersion)
    ));
    assert!(passes("--cedana-version state"));
    assert!(passes("exec c --cedana-version"));
}

#[test]
fn flags_of_the_go_shim() {
    let request = request(
        "--root /run/containerd/runc/default --log /b/log.json --log-format json restore --image-path /i \
         --work-path=/w --tcp-established --console-socket /s --bundle /b --detach --pid-file /p c1",
    );
    assert_eq!(&*request.id, "c1");
    assert_eq!(*request.images, *Path::new("/i"));
    assert_eq!(request.work_path(), PathBuf::from("/w"));
    assert!(request.has("detach") && request.has("tcp-established"));
    assert_eq!(*request.bundle, *Path::new("/b"));
    assert!(request.globals.log_json);
    assert_eq!(
        request.with_values(&["--file-locks"], &[])[6..9],
        args("restore --file-locks --image-path")[..]
    );
}

#[test]
fn flags_may_follow_the_id_and_be_short() {
    let request = request("restore c -d -b /b --no-pivot");
    assert!(request.has("detach") && request.has("no-pivot"));
    assert_eq!(*request.bundle, *Path::new("/b"));
    assert_eq!(request.work_path(), *request.images);
}

#[test]
fn switches_can_be_turned_off() {
    assert!(!request("checkpoint --tcp-established=false c").has("tcp-established"));
    assert!(request("checkpoint --tcp-established=true c").has("tcp-established"));
}

#[test]
fn errors_name_the_flag() {
    let error = parse(&args("checkpoint --fancy c")).expect_err("unknown");
    assert!(error.to_string().contains("--fancy"));
    let error = parse(&args("checkpoint c --progress-fd")).expect_err("no value");
    assert!(error.to_string().contains("--progress-fd"));
    assert!(parse(&args("checkpoint ../../etc")).is_err());
    assert!(parse(&args("restore ..")).is_err());
}

#[test]
fn an_archive_has_a_directory_and_a_name() {
    let named = request("checkpoint --archive-dir /a --archive-name web --leave-running c");
    assert_eq!(*named.images, *Path::new("/a"));
    assert_eq!(named.archive_name().as_deref(), Some("web"));
    assert_eq!(
        named.with_values(&[], &[]),
        args("checkpoint --leave-running c")
    );
    let unnamed = request("checkpoint --archive-dir=/a c");
    assert_eq!(unnamed.archive_name().as_deref(), Some("c"));
    assert_eq!(request("checkpoint c").archive_name(), None);
    for line in [
        "checkpoint --archive-name web c",
        "checkpoint --archive-dir= c",
        "checkpoint --archive-dir /a --image-path /i c",
        "checkpoint --archive-dir /a --pre-dump c",
        "checkpoint --archive-dir /a --lazy-pages c",
        "restore --archive-dir /a c",
    ] {
        assert!(parse(&args(line)).is_err(), "{line}");
    }
}

#[test]
fn our_own_flags_do_not_reach_the_runtime() {
    for line in [
        "checkpoint --leave-running --progress-fd 7 --work-path /w c",
        "checkpoint --leave-running --progress-fd=7 --work-path /w c",
        "checkpoint --leave-running --progress-fd 3 --work-path /w -progress-fd 7 c",
    ] {
        let request = request(line);
        assert_eq!(request.progress_fd, Some(7), "{line}");
        let args = args("checkpoint --leave-running --work-path /w c");
        assert_eq!(request.with_values(&[], &[]), args, "{line}");
    }
    assert_eq!(request("checkpoint c -- --progress-fd 7").progress_fd, None);
    let value = request("checkpoint --image-path --progress-fd c");
    assert!(value.images.ends_with("--progress-fd"));
    for line in [
        "checkpoint --progress-fd c",
        "checkpoint --progress-fd -1 c",
        "checkpoint c --progress-fd",
        "restore --progress-fd 7 c",
    ] {
        assert!(parse(&args(line)).is_err(), "{line}");
    }
}

#[test]
fn inspect_takes_a_directory_or_the_records_of_restores() {
    let inspect = |line: &str| match parse(&args(line)) {
        Ok(Invocation::Inspect(inspect)) => Ok((inspect.subject, inspect.json)),
        Err(error) => Err(error),
        other => panic!("{line}: {other:?}"),
    };
    let checkpoint = |dir: &str| Subject::Checkpoint(PathBuf::from(dir));
    assert_eq!(inspect("inspect /c"), Ok((checkpoint("/c"), false)));
    assert_eq!(
        inspect("--debug inspect --json /c"),
        Ok((checkpoint("/c"), true))
    );
    assert_eq!(inspect("inspect /c -json"), inspect("inspect --json /c"));
    assert_eq!(
        inspect("inspect -- --json"),
        Ok((checkpoint("--json"), false))
    );
    assert_eq!(
        inspect("inspect --json --restores"),
        Ok((Subject::Restores, true))
    );
    for line in [
        "inspect",
        "inspect /c /d",
        "inspect --help",
        "inspect --x /c",
        "inspect --restores /c",
    ] {
        assert_eq!(inspect(line), Err(Error::InspectUsage), "{line}");
    }
}

proptest! {
    #[test]
    fn no_arguments_panic(words in prop::collection::vec(prop::collection::vec(1u8.., 0..12), 0..8)) {
        let args: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
        let _ = parse(&args);
    }

    #[test]
    fn an_id_is_one_path_component(
        flags in prop::sample::subsequence(vec!["--leave-running", "--image-path=/i", "--file-locks"], 0..3),
        id in "\\PC{1,20}",
    ) {
        let mut args: Vec<OsString> = vec!["checkpoint".into()];
        args.extend(flags.iter().map(OsString::from));
        args.push(id.into());
        if let Ok(Invocation::Checkpoint(request)) = parse(&args) {
            prop_assert!(!request.id.contains('/') && &*request.id != "..");
        }
    }

    #[test]
    fn arguments_reach_the_runtime_in_order(
        globals in prop::sample::subsequence(vec!["--root=/r", "--debug", "--log=/l"], 0..3),
        flags in prop::sample::subsequence(vec!["--leave-running", "--image-path=/i"], 0..2),
    ) {
        let mut args: Vec<OsString> = globals.iter().map(OsString::from).collect();
        args.push("checkpoint".into());
        args.extend(flags.iter().map(OsString::from));
        args.push("c".into());
        if let Ok(Invocation::Checkpoint(request)) = parse(&args) {
            prop_assert_eq!(request.with_values(&[], &[]), args);
        } else {
            prop_assert!(false);
        }
    }
}

#[test]
fn unpack_takes_a_directory_and_a_destination() {
    let parse = |args: &[&str]| {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        match parse(&args) {
            Ok(Invocation::Unpack(unpack)) => Ok(unpack),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    };
    let unpack = |dir: &str, to: Option<&str>| {
        Ok(Unpack {
            dir: dir.into(),
            to: to.map(Into::into),
        })
    };
    assert_eq!(parse(&["unpack", "d"]), unpack("d", None));
    assert_eq!(parse(&["unpack", "d", "--to", "e"]), unpack("d", Some("e")));
    assert_eq!(parse(&["unpack", "--to=e", "d"]), unpack("d", Some("e")));
    assert_eq!(parse(&["unpack", "--", "--to"]), unpack("--to", None));
    for wrong in [
        &["unpack"][..],
        &["unpack", "a", "b"],
        &["unpack", "a", "--to"],
        &["unpack", "a", "--in", "b"],
        &["unpack", "a", "--to", "b", "--to", "c"],
    ] {
        assert_eq!(parse(wrong), Err(Error::UnpackUsage));
    }
}
