use super::*;

const SPEC: &str = r#"{ "annotations": {"a": "b"},
  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
             {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]}],
  "linux": {"namespaces": [{"type": "pid"}, {"type": "network"}]} }"#;

fn bundle() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join(CONFIG), SPEC).expect("write");
    dir
}

fn config(dir: &tempfile::TempDir) -> String {
    fs::read_to_string(dir.path().join(CONFIG)).expect("read")
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .expect("dir")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn the_original_is_put_back() {
    let dir = bundle();
    let bundle = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert!(bundle.wants_netns() && bundle.has_netns());
    let replaced = bundle
        .replace_config(Some(Path::new("/proc/1/task/1/ns/net")))
        .expect("replace");
    let spec: Value = serde_json::from_str(&config(&dir)).expect("json");
    assert_eq!(
        spec["linux"]["namespaces"][1]["path"],
        "/proc/1/task/1/ns/net"
    );
    drop(replaced);
    assert_eq!(config(&dir), SPEC);
    assert_eq!(names(&dir), [CONFIG]);
}

#[test]
fn a_sufficient_config_is_not_replaced() {
    let dir = bundle();
    fs::create_dir(dir.path().join("data")).expect("mkdir");
    let bundle = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert!(bundle.replace_config(None).expect("look").is_none());
    assert_eq!(names(&dir), [CONFIG, "data"]);
}

#[test]
fn links_in_mount_sources_are_followed() {
    let dir = bundle();
    fs::create_dir(dir.path().join("target")).expect("mkdir");
    std::os::unix::fs::symlink("target", dir.path().join("data")).expect("symlink");
    let bundle = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    let replaced = bundle.replace_config(None).expect("replace");
    let spec: Value = serde_json::from_str(&config(&dir)).expect("json");
    let target = dir.path().canonicalize().expect("path").join("target");
    assert_eq!(spec["mounts"][1]["source"], target.to_str().expect("text"));
    assert_eq!(spec["mounts"][0]["source"], "proc");
    drop(replaced);
    assert_eq!(config(&dir), SPEC);
}

#[test]
fn the_next_run_puts_back_a_killed_runs_original() {
    let dir = bundle();
    let first = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    std::mem::forget(
        first
            .replace_config(Some(Path::new("/proc/9/task/9/ns/net")))
            .expect("replace"),
    );
    drop(first);
    assert!(config(&dir).contains("/proc/9/task/9"));
    let second = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert!(second.wants_netns());
    assert_eq!(config(&dir), SPEC);
    assert_eq!(names(&dir), [CONFIG]);
}

#[test]
fn a_run_killed_between_link_and_rename_is_undone() {
    let dir = bundle();
    fs::hard_link(dir.path().join(CONFIG), dir.path().join(ORIGINAL)).expect("link");
    Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert_eq!(names(&dir), [CONFIG]);
}

#[test]
fn two_restores_can_not_use_one_bundle() {
    let dir = bundle();
    let _first = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert!(matches!(
        Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))),
        Err(Error::Busy { .. })
    ));
}

#[test]
fn missing_mount_sources_are_named() {
    let dir = bundle();
    let bundle = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    let error = bundle.check_mounts().expect_err("no data").to_string();
    assert!(error.contains("/data"), "{error}");
    fs::create_dir(dir.path().join("data")).expect("mkdir");
    bundle.check_mounts().expect("it exists");
}

#[test]
fn invalid_bundles_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert!(matches!(
        Bundle::open(&BundlePath::of(Some(dir.path().join("x").as_os_str()))),
        Err(Error::Missing { .. })
    ));
    assert!(matches!(
        Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))),
        Err(Error::Read { .. })
    ));
    for text in ["", "{", "[]"] {
        fs::write(dir.path().join(CONFIG), text).expect("write");
        assert!(matches!(
            Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))),
            Err(Error::Invalid { .. })
        ));
    }
    fs::write(
        dir.path().join(CONFIG),
        r#"{"linux":{"namespaces":["network"]}}"#,
    )
    .expect("write");
    assert!(
        !Bundle::open(&BundlePath::of(Some(dir.path().as_os_str())))
            .expect("open")
            .has_netns()
    );
}

#[test]
fn the_containers_root_is_found_in_the_mappings() {
    let dir = bundle();
    let root = |text: &str| {
        fs::write(dir.path().join(CONFIG), text).expect("write");
        Bundle::open(&BundlePath::of(Some(dir.path().as_os_str())))
            .expect("open")
            .root()
            .0
    };
    let mapped = r#"{"linux":{"uidMappings":[
        {"containerID":1,"hostID":7,"size":1},{"containerID":0,"hostID":100000,"size":65536}]}}"#;
    assert_eq!(root(mapped), 100_000);
    for none in [
        "{}",
        r#"{"linux":{"uidMappings":[]}}"#,
        r#"{"linux":{"uidMappings":["x"]}}"#,
        r#"{"linux":{"uidMappings":[{"containerID":0,"hostID":-1}]}}"#,
    ] {
        assert_eq!(root(none), 0, "{none}");
    }
}

#[test]
fn a_config_that_the_engine_wrote_meanwhile_is_kept() {
    let dir = bundle();
    let first = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    let replaced = first
        .replace_config(Some(Path::new("/proc/1/task/1/ns/net")))
        .expect("replace");
    std::mem::forget(replaced);
    drop(first);
    let new = r#"{"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}"#;
    fs::write(dir.path().join(".new"), new).expect("write");
    fs::rename(dir.path().join(".new"), dir.path().join(CONFIG)).expect("rename");
    let second = Bundle::open(&BundlePath::of(Some(dir.path().as_os_str()))).expect("open");
    assert!(!second.wants_netns());
    assert!(!dir.path().join(ORIGINAL).exists());
    assert_eq!(
        fs::read_to_string(dir.path().join(CONFIG)).expect("read"),
        new
    );
}
