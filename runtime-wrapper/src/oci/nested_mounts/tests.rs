use std::fs;

use serde_json::json;

use super::destinations::resolve_in;
use super::*;
use crate::host::mountinfo::parse;

const CONTAINER: &str = "\
    169 134 254:1 /var/tmp/top /top ro,relatime - ext4 /dev/vda rw\n\
    170 169 0:99 / /top/sub rw - tmpfs t rw\n\
    171 169 254:1 /var/tmp/other/f /top/a/file rw - ext4 /dev/vda rw\n\
    172 169 0:77 / /top/own rw - tmpfs t rw\n\
    179 169 0:81 / /top/twice rw - autofs t rw\n\
    180 179 0:82 / /top/twice rw - tmpfs t rw\n\
    183 169 0:86 / /top/restored rw - tmpfs t rw\n\
    184 183 0:86 / /top/restored rw - tmpfs t rw\n\
    185 169 0:88 / /top/changed rw - tmpfs t rw\n\
    181 169 0:83 / /top/covered rw - tmpfs t rw\n\
    182 181 0:84 / /top/covered rw - tmpfs t rw\n\
    178 169 0:79 / /top/a\\040blank rw - tmpfs t rw\n\
    173 169 0:78 / /top/gone rw - tmpfs t rw\n\
    174 134 254:1 /usr /top/usr ro - ext4 /dev/vda rw\n\
    175 174 0:98 / /top/usr/local ro - tmpfs t rw\n\
    176 134 0:55 / /proc rw - proc proc rw\n\
    177 176 0:56 / /proc/sys ro - proc proc rw\n";

fn destinations(host: &Path) -> Destinations {
    let top = host.join("top");
    fs::create_dir(&top).expect("directory");
    let spec = json!({
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/top/", "type": "bind", "source": top, "options": ["rbind", "ro"]},
            {"destination": "/top/usr", "type": "none", "source": "/usr", "options": ["bind"]},
        ],
        "linux": {"maskedPaths": ["/top/masked"], "devices": [{"path": "/top/device"}]},
    });
    Destinations::of(&spec, host, &host.join("root"))
}

#[test]
fn only_mounts_that_the_host_still_has_are_shared() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = dir.path().canonicalize().expect("path");
    let destinations = destinations(&host);
    let line = |device: &str, root: &str, place: &str| {
        format!(
            "1 2 {device} {root} {}/top{place} rw - x x rw\n",
            host.display()
        )
    };
    let host_mounts = [
        line("0:81", "/", "/twice"),
        line("0:82", "/", "/twice"),
        line("0:83", "/", "/covered"),
        line("0:85", "/", "/restored"),
        line("0:86", "/", "/restored"),
        line("0:88", "/", "/changed"),
        line("0:89", "/", "/changed"),
        line("0:99", "/", "/sub"),
        line("254:1", "/var/tmp/other/f", "/a/file"),
        line("0:79", "/", "/a\\040blank"),
        line("0:6", "/", "/own"),
        line("0:98", "/", "/usr/local"),
    ]
    .concat();
    assert_eq!(
        shared(&destinations, &parse(CONTAINER), &parse(&host_mounts)),
        ["/top/a/file", "/top/restored", "/top/sub", "/top/twice"]
    );
}

#[test]
fn mounts_of_the_configuration_are_named_by_the_runtime() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = dir.path().canonicalize().expect("path");
    let destinations = destinations(&host);
    let source = |place: &str| destinations.source_of(Path::new(place));
    assert!(destinations.recursive_sources().next().is_some());
    assert_eq!(source("/top/x/y"), Some(host.join("top/x/y")));
    for place in [
        "/top",
        "/top/usr",
        "/top/usr/x",
        "/top/masked",
        "/top/device",
        "/topmost",
        "/proc/sys",
        "top/x",
        "/top/../x",
        "/top/\"x",
        "/top/x\n",
        "/top/a b",
    ] {
        assert_eq!(source(place), None, "{place}");
    }
}

#[test]
fn a_restore_follows_no_link_out_of_the_bind_mount() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = dir.path().canonicalize().expect("path");
    let top = host.join("top");
    fs::create_dir_all(top.join("sub")).expect("directory");
    std::os::unix::fs::symlink("/etc", top.join("link")).expect("link");
    let spec = json!({"mounts": [
        {"destination": "/top", "type": "bind", "source": "top", "options": ["rbind"]},
    ]});
    let mounts_for =
        |key: &str| external_mounts([key.to_owned()], &spec, &host, &host.join("root"));
    let found = mounts_for("/top/sub").expect("exists");
    assert_eq!(found[0].source, top.join("sub"));
    assert_eq!(mounts_for("/elsewhere").expect("ignored").len(), 0);
    for (key, source) in [("/top/none", "none"), ("/top/link/ssl", "link/ssl")] {
        assert_eq!(mounts_for(key), Err((key.to_owned(), top.join(source))));
    }
}

#[test]
fn mounts_below_a_shared_parent_would_be_unmounted() {
    let lost = |source: &str, tag: &str| {
        let host = format!(
            "1 0 0:1 / / rw - x x rw\n\
             2 1 0:2 / /data rw{tag} - x x rw\n\
             3 2 0:3 / /data/cache rw - x x rw\n"
        );
        has_shared_below(Path::new(source), &parse(&host))
    };
    assert!(lost("/data", " shared:7 master:3"));
    assert!(lost("/", " shared:7"));
    assert!(!lost("/data", ""));
    assert!(!lost("/data", " master:7"));
    assert!(!lost("/data/cache", " shared:7"));
    assert!(!lost("/dat", " shared:7"));
}

#[test]
fn links_in_a_destination_are_resolved_in_the_root() {
    let dir = tempfile::tempdir().expect("tempdir");
    let root = dir.path();
    fs::create_dir_all(root.join("run/there")).expect("directory");
    fs::create_dir(root.join("var")).expect("directory");
    std::os::unix::fs::symlink("/run", root.join("var/run")).expect("link");
    assert_eq!(resolve_in(root, "/var/run/there"), Path::new("/run/there"));
    assert_eq!(resolve_in(root, "/not//yet/"), Path::new("/not/yet"));
}
