use super::publish::{parse, render};
use super::*;
use crate::Store;
use proptest::prelude::*;

#[test]
fn a_newer_or_damaged_catalogue_is_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path()).expect("a store");
    let mut catalogue = store.catalogue().expect("a catalogue");
    let query = catalogue
        .connection()
        .pragma_update(None, "user_version", 99);
    query.expect("set the version");
    drop(catalogue);
    let newer = store.catalogue().expect_err("newer");
    assert!(newer.to_string().contains("has version 99"), "{newer}");
    let newer = Catalogue::open_read_only(dir.path()).expect_err("newer");
    assert!(newer.to_string().contains("update it"), "{newer}");
    std::fs::write(
        dir.path().join(FILE),
        "no database at all, but a text of some length".repeat(40),
    )
    .expect("write");
    for _ in 0..2 {
        let damaged = store.catalogue().expect_err("damaged");
        assert!(damaged.to_string().contains("is damaged"), "{damaged}");
    }
}

#[test]
fn processes_may_make_it_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path()).expect("a store");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                store
                    .catalogue()
                    .expect("a catalogue")
                    .used_bytes()
                    .expect("sum")
            });
        }
    });
}

/// The locks on a file, as the kernel lists them.
fn locks(path: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(path).expect("status").ino();
    let all = std::fs::read_to_string("/proc/locks").expect("locks");
    let of_file = format!(":{inode} ");
    all.lines()
        .filter(|line| line.contains("POSIX") && line.contains(&of_file))
        .count()
}

/// Without its lock another process would remove the log that this one writes to.
#[test]
fn a_second_connection_leaves_the_first_its_lock() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path()).expect("a store");
    let mut one = store.catalogue().expect("a catalogue");
    one.rows().expect("read");
    let before = locks(one.path());
    assert!(before > 0, "SQLite holds no lock");
    drop(store.catalogue().expect("a second connection"));
    assert_eq!(locks(one.path()), before);
}

proptest! {
    #[test]
    fn numbers_are_parsed_as_they_were(mut numbers in prop::collection::vec(1i64..1 << 40, 0..50)) {
        let bytes = render(&mut numbers);
        prop_assert_eq!(parse(&bytes), Some(numbers));
    }

    #[test]
    fn no_value_panics(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        let _ = parse(&bytes);
    }
}
