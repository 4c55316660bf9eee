//! The database: states, owners, damage.

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
    let store = Store::open(dir.path()).expect("a database");
    (dir, store)
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
    let again = Store::open(dir.path()).expect("opened again");
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
    let error = Store::open(dir.path()).expect_err("refused").to_string();
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
