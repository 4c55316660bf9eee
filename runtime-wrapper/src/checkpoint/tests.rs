use super::*;

fn stats(pairs: &[(i32, i32)]) -> HashMap<i32, Stat> {
    pairs
        .iter()
        .map(|&(pid, parent)| {
            let stat = Stat {
                name: "x".to_owned(),
                state: 'S',
                parent,
                exit: None,
            };
            (pid, stat)
        })
        .collect()
}

#[test]
fn exec_sessions_are_no_descendants() {
    let stats = stats(&[(10, 1), (11, 10), (12, 11), (20, 5), (21, 20)]);
    for pid in [10, 11, 12] {
        assert!(descends(pid, 10, &stats));
    }
    for pid in [20, 21] {
        assert!(!descends(pid, 10, &stats));
    }
}

#[test]
fn reused_ids_cannot_loop() {
    assert!(!descends(1, 9, &stats(&[(1, 2), (2, 1)])));
}

#[test]
fn only_new_images_are_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let new = Images::before(dir.path().join("new"));
    fs::create_dir(&new.dir).expect("mkdir");
    fs::write(new.dir.join("core-1.img"), "").expect("write");
    new.remove_new().expect("remove");
    assert!(!new.dir.exists());
    new.remove_new().expect("nothing to remove");

    let empty = Images::before(dir.path().to_owned());
    fs::write(dir.path().join("core-1.img"), "").expect("write");
    fs::create_dir(dir.path().join("d")).expect("mkdir");
    empty.remove_new().expect("remove");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0);

    fs::write(dir.path().join("precious"), "").expect("write");
    let full = Images::before(dir.path().to_owned());
    fs::write(dir.path().join("core-1.img"), "").expect("write");
    full.remove_new().expect("nothing");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2);
}
