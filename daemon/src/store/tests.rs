//! The database: states, owners, damage.

use std::path::Path;

use super::*;
use crate::job::bytes::Bytes;
use crate::job::id::JobId;
use crate::job::spec::{Credentials, Exit, RestartPolicy, Spec};

fn key(uid: u32, id: &str) -> JobKey {
    JobKey {
        uid,
        id: JobId::parse(id).expect("an ID"),
    }
}

fn job(uid: u32, id: &str) -> JobRow {
    JobRow::new(&Spec {
        id: JobId::parse(id).expect("an ID"),
        credentials: Credentials {
            uid,
            gid: 0,
            groups: Vec::new(),
            umask: 0o22,
            no_new_privs: false,
            oom_score_adj: 0,
            bounding: 0,
            limits: Vec::new(),
        },
        arguments: vec![Bytes::from("sleep"), Bytes::from("1")],
        working_directory: Bytes(vec![b'/', 0xff]),
        environment: Vec::new(),
        log_file: None,
        terminal: None,
        restart: RestartPolicy::OnFailure,
        created: 7,
    })
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(dir.path());
    (dir, store)
}

/// The database in a directory, with a catalogue beside it.
fn opened(dir: &Path) -> Store {
    Store::open(dir, &dir.join("store")).expect("a database")
}

fn catalogue(dir: &Path) -> Connection {
    Connection::open(dir.join("store/catalogue.db")).expect("a catalogue")
}

fn paths(store: &Store) -> Vec<String> {
    let found = store.checkpoints(None, None).expect("listed");
    let path = |row: CheckpointRow| String::from_utf8(row.path.0).expect("text");
    found.into_iter().map(path).collect()
}

/// The row that a dump by reference writes.
fn publish(dir: &Path, path: &str) {
    let query =
        "INSERT INTO checkpoints (id, uid, path, created, boot, boot_time, raw_bytes, bytes,
            subject, details, chunks)
        VALUES (?1, 0, ?2, 5, '', 0, 7, 3, '{\"engine\":\"none\"}', '{}', x'01')";
    let id = format!("{:032x}", path.len());
    let path = path.as_bytes();
    let added = catalogue(dir).execute(query, params![id, path]);
    assert_eq!(added, Ok(1));
}

#[test]
fn every_state_is_read_as_it_was_written() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    for state in [
        JobState::Starting,
        JobState::Running {
            pid: 5,
            supervisor: 6,
        },
        JobState::Restarting {
            exit: Exit::Signal(9),
            supervisor: 6,
        },
        JobState::Ended(Exit::Code(3)),
        JobState::Lost,
    ] {
        assert!(store.set_state(&key(1, "a"), state, 9, 2).expect("set"));
        let found = store.get(&key(1, "a")).expect("read").expect("a job");
        let expected = JobRow {
            state,
            since: 9,
            restarts: 2,
            ..job(1, "a")
        };
        assert_eq!(found, expected);
    }
    assert!(
        !store
            .set_state(&key(1, "b"), JobState::Lost, 0, 0)
            .expect("set")
    );
    drop(store);
    let again = opened(dir.path());
    assert_eq!(again.list(None, true).expect("list").len(), 1);
}

#[test]
fn an_id_belongs_to_its_owner() {
    let (_dir, store) = store();
    for uid in [1, 2] {
        store.insert(&job(uid, "a")).expect("inserted");
    }
    assert!(matches!(
        store.insert(&job(1, "a")),
        Err(StoreError::Exists)
    ));
    assert_eq!(store.owners("a").expect("owners"), [1, 2]);
    assert_eq!(store.list(Some(1), true).expect("list").len(), 1);
    assert_eq!(store.list(None, true).expect("list").len(), 2);
    store.remove(&key(1, "a")).expect("removed");
    assert_eq!(store.owners("a").expect("owners"), [2]);
}

#[test]
fn an_ended_job_is_listed_while_it_has_a_checkpoint() {
    let (_dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    let ended = JobState::Ended(Exit::Code(0));
    store.set_state(&key(1, "a"), ended, 9, 0).expect("set");
    assert!(store.list(None, false).expect("list").is_empty());
    assert!(store.live().expect("list").is_empty());
    for (created, bytes) in [(10, 100), (20, 200)] {
        store
            .add_checkpoint(
                &key(1, "a"),
                format!("/{created}").as_bytes(),
                created,
                bytes,
            )
            .expect("added");
    }
    let listed = store.list(None, false).expect("list");
    let expected = Checkpoints {
        newest: Some(20),
        local: 2,
        remote: 0,
        bytes: 300,
    };
    assert_eq!(listed[0].checkpoints, expected);
    assert!(store.add_checkpoint(&key(1, "b"), b"/x", 1, 1).is_err());
    store
        .remove(&key(1, "a"))
        .expect("removed with its checkpoints");
}

/// Opens a file with this content; it must fail and leave the file as it was.
fn refused(content: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(FILE);
    std::fs::write(&path, content).expect("written");
    let error = Store::open(dir.path(), &dir.path().join("store"));
    let error = error.expect_err("refused").to_string();
    assert_eq!(std::fs::read(&path).expect("read"), content);
    error
}

#[test]
fn a_damaged_database_is_left_unchanged() {
    let error = refused(b"this is no database, but it is a user's file, long enough");
    assert!(error.contains("left unchanged"), "{error}");

    let (dir, store) = store();
    for n in 0..500 {
        store.insert(&job(1, &format!("job{n}"))).expect("inserted");
    }
    drop(store);
    let mut content = std::fs::read(dir.path().join(FILE)).expect("read");
    let middle = content.len() / 2;
    content[middle..].fill(0x5a);
    let error = refused(&content);
    assert!(error.contains("left unchanged"), "{error}");
}

#[test]
fn a_newer_database_is_left_unchanged() {
    let (dir, store) = store();
    drop(store);
    let path = dir.path().join(FILE);
    let connection = Connection::open(&path).expect("opened");
    connection
        .pragma_update(None, "user_version", 1000)
        .expect("set");
    drop(connection);
    let content = std::fs::read(&path).expect("read");
    let error = refused(&content);
    assert!(
        error.contains("version 1000") && error.contains("newer"),
        "{error}"
    );
}

/// A database of the version before the checkpoints were moved.
fn old(dir: &Path) -> Connection {
    let mut connection = Connection::open(dir.join(FILE)).expect("opened");
    migrations::migrate(&mut connection).expect("migrated");
    connection
        .execute_batch(
            "INSERT INTO jobs (uid, id, state, since, created, restart_policy, command,
                 working_directory, terminal) VALUES (1, 'a', 'lost', 1, 1, 'never', 'x', x'2f', 0);
             INSERT INTO checkpoints (uid, job, path, created, bytes, remote) VALUES
                 (1, 'a', CAST('/new' AS BLOB), 1700000000000002, 20, 0),
                 (1, 'a', CAST('/old' AS BLOB), 1700000000000001, 10, 0);",
        )
        .expect("filled");
    connection
}

#[test]
fn older_checkpoints_are_moved_once() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(old(dir.path()));
    for _ in 0..2 {
        let store = opened(dir.path());
        assert_eq!(paths(&store), ["/old", "/new"]);
        let job = store.get(&key(1, "a")).expect("read").expect("a job");
        let expected = Checkpoints {
            newest: Some(1_700_000_000_000_002),
            local: 2,
            remote: 0,
            bytes: 30,
        };
        assert_eq!(job.checkpoints, expected);
        let found = store.checkpoints(Some(1), Some("a")).expect("listed");
        assert_eq!(found[0].created, 1_700_000_000_000_001);
    }
    let connection = Connection::open(dir.path().join(FILE)).expect("opened");
    let left = connection.prepare("SELECT * FROM checkpoints").is_ok();
    assert!(!left, "the old table is still there");
}

#[test]
fn a_move_that_was_interrupted_is_finished() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(old(dir.path()));
    drop(opened(dir.path()));
    // As if the daemon was killed before the table was dropped.
    std::fs::remove_file(dir.path().join(FILE)).expect("removed");
    drop(old(dir.path()));
    let store = opened(dir.path());
    assert_eq!(paths(&store), ["/old", "/new"]);
}

#[test]
fn a_dump_by_reference_has_one_row() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    publish(dir.path(), "/a.tar");
    publish(dir.path(), "/of/a/container");
    assert!(paths(&store).is_empty(), "it is no job's yet");
    for _ in 0..2 {
        let added = store.add_checkpoint(&key(1, "a"), b"/a.tar", 9_000_001, 42);
        added.expect("added");
    }
    let rows = |query: &str| -> i64 {
        let number = catalogue(dir.path()).query_row(query, [], |row| row.get(0));
        number.expect("counted")
    };
    assert_eq!(rows("SELECT count(*) FROM checkpoints"), 2);
    assert_eq!(
        rows(
            "SELECT count(*) FROM checkpoints WHERE job = 'a' AND uid = 1 AND id IS NOT NULL AND bytes = 42"
        ),
        1
    );
    // The archive may be in a directory of the owner's, so its memory is kept with it.
    store.remove(&key(1, "a")).expect("removed");
    assert_eq!(
        rows("SELECT count(*) FROM checkpoints WHERE job IS NULL"),
        2
    );
}

#[test]
fn a_new_job_does_not_inherit_checkpoints() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    store
        .add_checkpoint(&key(1, "a"), b"/x", 1, 1)
        .expect("added");
    drop(store);
    std::fs::remove_file(dir.path().join(FILE)).expect("moved away");
    let store = opened(dir.path());
    assert!(paths(&store).is_empty());
    store.insert(&job(1, "a")).expect("inserted");
    assert!(paths(&store).is_empty());
}

#[test]
fn a_catalogue_that_cannot_be_used_keeps_no_job_from_running() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(old(dir.path()));
    let file = dir.path().join("store/catalogue.db");
    std::fs::create_dir(dir.path().join("store")).expect("made");
    let content = "no database at all, but a text of some length".repeat(40);
    std::fs::write(&file, &content).expect("written");
    let store = opened(dir.path());
    assert!(store.is_without_checkpoints());
    assert!(paths(&store).is_empty());
    store.insert(&job(1, "b")).expect("inserted");
    store
        .add_checkpoint(&key(1, "b"), b"/x", 1, 1)
        .expect("kept in memory");
    assert_eq!(paths(&store), ["/x"]);
    assert_eq!(store.list(None, true).expect("listed").len(), 2);
    drop(store);
    assert_eq!(std::fs::read_to_string(&file).expect("read"), content);
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(paths(&opened(dir.path())), ["/old", "/new"], "moved later");
}

#[test]
fn a_newer_catalogue_is_left_unchanged() {
    let (dir, store) = store();
    drop(store);
    let newer = catalogue(dir.path());
    newer.pragma_update(None, "user_version", 99).expect("set");
    drop(newer);
    let store = opened(dir.path());
    assert!(store.is_without_checkpoints());
    let version = catalogue(dir.path()).query_row("PRAGMA user_version", [], |row| row.get(0));
    assert_eq!(version, Ok(99));
}

#[test]
fn a_catalogue_that_is_found_damaged_later_is_done_without() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    for n in 0..2000 {
        let path = format!("/{n}");
        store
            .add_checkpoint(&key(1, "a"), path.as_bytes(), n, 1)
            .expect("added");
    }
    drop(store);
    let file = dir.path().join("store/catalogue.db");
    let mut content = std::fs::read(&file).expect("read");
    // All but the schema.
    let pages = content.len().min(20 * 4096)..;
    content[pages].fill(0x5a);
    std::fs::write(&file, content).expect("written");
    let store = opened(dir.path());
    assert_eq!(store.list(None, true).expect("listed").len(), 1);
    assert!(paths(&store).is_empty() && store.is_without_checkpoints());
}

#[test]
fn a_catalogue_that_a_repair_has_replaced_is_taken() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    store
        .add_checkpoint(&key(1, "a"), b"/x", 1, 1)
        .expect("added");
    let aside = dir.path().join("aside");
    std::fs::rename(dir.path().join("store"), &aside).expect("moved");
    assert!(paths(&store).is_empty());
    store
        .add_checkpoint(&key(1, "a"), b"/y", 1, 1)
        .expect("added");
    let query = "SELECT path FROM checkpoints";
    let path = catalogue(dir.path()).query_row(query, [], |row| row.get::<_, Vec<u8>>(0));
    assert_eq!(path, Ok(b"/y".to_vec()));
}

#[test]
fn daemons_do_not_see_each_others_checkpoints() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |name: &str| {
        let state = dir.path().join(name);
        std::fs::create_dir_all(&state).expect("made");
        Store::open(&state, &dir.path().join("store")).expect("opened")
    };
    let (one, two) = (open("one"), open("two"));
    for store in [&one, &two] {
        store.insert(&job(1, "a")).expect("inserted");
        let added = store.add_checkpoint(&key(1, "a"), b"/same", 1, 1);
        added.expect("added");
    }
    one.add_checkpoint(&key(1, "a"), b"/x", 2, 1)
        .expect("added");
    two.remove(&key(1, "a")).expect("removed");
    assert_eq!(paths(&one), ["/same", "/x"]);
    assert!(paths(&two).is_empty());
}

#[test]
fn a_pin_outlives_the_checkpoint_of_a_job() {
    let (dir, store) = store();
    store.insert(&job(1, "a")).expect("inserted");
    for path in ["/a", "/bb"] {
        publish(dir.path(), path);
        let added = store.add_checkpoint(&key(1, "a"), path.as_bytes(), 1, 1);
        added.expect("added");
    }
    let pinned = "INSERT INTO pins SELECT number FROM checkpoints WHERE path = CAST('/a' AS BLOB)";
    assert_eq!(catalogue(dir.path()).execute(pinned, []), Ok(1));
    for row in store.checkpoints(None, None).expect("listed") {
        store.remove_checkpoint(row.number).expect("removed");
    }
    assert!(paths(&store).is_empty());
    let query = "SELECT path FROM checkpoints WHERE job IS NULL";
    let left = catalogue(dir.path()).query_row(query, [], |row| row.get::<_, Vec<u8>>(0));
    assert_eq!(left, Ok(b"/a".to_vec()));
}
