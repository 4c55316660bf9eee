//! Users, capabilities, filters, limits and namespaces.

use super::honest::{CAPABILITIES, Case, core, ids};
use super::tree::{Message, Value};
use crate::precheck::{CapabilitySet, Mapping, Namespace};

/// Changes a field of both threads.
fn threads(case: &mut Case, path: &[u64], values: &[u64]) {
    for image in ["core-1.img", "core-2.img"] {
        case.tree.record(image, 0).set(path, values.iter().copied());
    }
}

const CREDS: [u64; 2] = [5, 10];

fn creds(field: u64) -> Vec<u64> {
    [&CREDS[..], &[field]].concat()
}

#[test]
fn a_user_needs_the_capability_to_become_another() {
    for (field, words) in [
        (1, "user 1000"),
        (3, "user 1000"),
        (7, "user 1000"),
        (2, "group 1000"),
        (8, "group 1000"),
        (14, "group 1000"),
    ] {
        let mut case = Case::honest();
        threads(&mut case, &creds(field), &[1000]);
        case.passes();
        case.granted.permitted = CapabilitySet::default();
        case.is_refused(words);
    }
    // A user of the configuration stays one.
    let mut case = Case::honest();
    for field in [1, 3, 5, 7] {
        threads(&mut case, &creds(field), &[1000]);
    }
    threads(&mut case, &creds(14), &[5]);
    case.granted.permitted = CapabilitySet::default();
    case.granted.user.uid = 1000;
    case.granted.user.groups = vec![5];
    case.passes();
}

#[test]
fn no_set_exceeds_the_bounding_set() {
    for set in [9, 10, 11, 12, 19] {
        let mut case = Case::honest();
        // CAP_SYS_ADMIN, of one thread only.
        let more = [CAPABILITIES[0] | 1 << 21, 0];
        case.tree.record("core-2.img", 0).set(&creds(set), more);
        case.is_refused("CAP_SYS_ADMIN");
        case.tree
            .record("core-2.img", 0)
            .set(&creds(set), [0_u64, 1 << 7]);
        case.is_refused("CAP_BPF");
        case.tree
            .record("core-2.img", 0)
            .set(&creds(set), [1_u64, 0]);
        case.passes();
    }
}

#[test]
fn a_thread_has_credentials() {
    let mut case = Case::honest();
    case.tree
        .record("core-2.img", 0)
        .set(&[5, 10], [] as [u64; 0]);
    case.is_refused("without credentials");
}

#[test]
fn no_new_privileges_stays() {
    for values in [&[][..], &[0]] {
        let mut case = Case::honest();
        case.tree
            .record("core-2.img", 0)
            .set(&creds(18), values.iter().copied());
        case.is_refused("noNewPrivileges");
        case.granted.no_new_privileges = false;
        case.passes();
    }
}

#[test]
fn every_thread_keeps_its_filter() {
    // Disabled, missing, and of a chain without an end.
    let mut case = Case::honest();
    case.tree.record("core-1.img", 0).set(&[5, 11], [0_u64]);
    case.is_refused("no seccomp filter");
    case.granted.seccomp = false;
    case.passes();

    let mut case = Case::honest();
    case.tree
        .record("core-2.img", 0)
        .set(&[5, 11], [] as [u64; 0]);
    case.is_refused("no seccomp filter");
    // CRIU stores a filter that all threads share with the leader only.
    case.tree.record("seccomp.img", 0).set(&[1, 3], [1_u64]);
    case.passes();

    let mut case = Case::honest();
    case.tree.record("core-1.img", 0).set(&[5, 12], [9_u64]);
    case.is_refused("no seccomp filter");

    let mut case = Case::honest();
    case.tree.record("seccomp.img", 0).set(&[1, 2], [0_u64]);
    case.is_refused("no seccomp filter");

    let mut case = Case::honest();
    case.tree.record("core-1.img", 0).set(&[3, 11], [2_u64]);
    case.is_refused("seccomp filter in the form");
}

#[test]
fn a_label_is_the_configurations() {
    let mut case = Case::honest();
    case.granted.label = Some("docker-default".to_owned());
    case.is_refused("no label");
    for (label, passes) in [
        ("docker-default", true),
        ("docker-default//hat", true),
        ("docker-defaults", false),
        ("unconfined", false),
    ] {
        for image in ["core-1.img", "core-2.img"] {
            case.tree.record(image, 0).set(&creds(15), [label]);
        }
        match passes {
            true => case.passes(),
            false => case.is_refused("docker-default"),
        }
    }
}

#[test]
fn limits_and_priorities_stay_below_the_configurations() {
    let mut case = Case::honest();
    let limit = |hard: u64| Message::default().with(1, 0).with(2, hard);
    let limits = (0..16).map(|number| Value::from(limit(if number == 7 { 4096 } else { 0 })));
    case.tree.record("core-1.img", 0).set(&[3, 8, 1], limits);
    case.is_refused("limit of resource 7");
    case.granted.bounding = CapabilitySet::named(["sys_resource", "chown"]);
    assert!(
        !case
            .refusals()
            .iter()
            .any(|refusal| refusal.wants.contains("limit"))
    );

    let mut case = Case::honest();
    // -500 in 64 bits.
    case.tree
        .record("core-1.img", 0)
        .set(&[3, 14], [u64::MAX - 499]);
    case.is_refused("OOM score adjustment -500");
    case.granted.oom_score_adj = Some(-500);
    case.passes();

    let mut case = Case::honest();
    case.tree.record("core-2.img", 0).set(&[5, 4], [1_u64]);
    case.is_refused("real time");
    case.granted.limits.push((14, u64::MAX));
    case.passes();

    let mut case = Case::honest();
    // -20, zigzag-encoded.
    case.tree.record("core-2.img", 0).set(&[5, 3], [39_u64]);
    case.is_refused("nice value -20");
}

#[test]
fn namespaces_are_the_configurations() {
    for (field, kind, words) in [
        (5, Namespace::Pid, "host's PID namespace"),
        (6, Namespace::Network, "host's network namespace"),
        (7, Namespace::Ipc, "host's IPC namespace"),
        (8, Namespace::Uts, "host's UTS namespace"),
    ] {
        let mut case = Case::honest();
        case.tree.record("ids-1.img", 0).set(&[field], [2 + field]);
        case.is_refused(words);
        case.granted.namespaces.remove(&kind);
        case.passes();
        // One that the configuration doesn't list.
        case.tree.record("ids-1.img", 0).set(&[field], [40 + field]);
        case.is_refused("namespace of its own");
    }
    // A number that is missing on both sides is the host's, too.
    let mut case = Case::honest();
    case.tree.record("ids-1.img", 0).set(&[7], [] as [u64; 0]);
    case.tree
        .record("inventory.img", 0)
        .set(&[3, 7], [] as [u64; 0]);
    case.is_refused("host's IPC namespace");
    let mut case = Case::honest();
    case.tree
        .record("inventory.img", 0)
        .set(&[3], [] as [u64; 0]);
    case.is_refused("no numbers");
    let mut case = Case::honest();
    case.tree.record("ids-1.img", 0).set(&[10], [50_u64]);
    case.is_refused("user namespace of its own");
}

/// A child of init with its own numbers of namespaces.
fn with_child(field: u64, number: u64) -> Case {
    let mut case = Case::honest();
    let process = Message::default()
        .with(1, 3)
        .with(2, 1)
        .with(3, 3)
        .with(4, 1)
        .with(5, 3);
    case.tree.add("pstree.img", process);
    case.tree.add("core-3.img", core(true));
    case.tree.add("ids-3.img", ids(40));
    case.tree.record("ids-3.img", 0).set(&[field], [number]);
    case
}

#[test]
fn processes_are_in_inits_namespaces() {
    with_child(6, 46).passes();
    for (field, words) in [(5, "PID"), (6, "network"), (7, "IPC"), (9, "mount")] {
        with_child(field, 2 + field).is_refused(words);
        with_child(field, 99).is_refused(words);
    }
    let mut case = with_child(6, 99);
    case.granted.bounding = CapabilitySet::named(["sys_admin"]);
    assert!(
        !case
            .refusals()
            .iter()
            .any(|refusal| refusal.wants.contains("network"))
    );
}

#[test]
fn a_zombie_has_no_credentials() {
    let mut case = with_child(6, 46);
    case.tree.record("core-3.img", 0).set(&[5], [] as [u64; 0]);
    case.is_refused("without credentials");
    case.tree.record("core-3.img", 0).set(&[3, 1], [6_u64]);
    case.passes();
}

#[test]
fn mappings_of_users_are_the_configurations() {
    let mut case = Case::honest();
    case.granted.namespaces.insert(Namespace::User);
    case.tree.record("ids-1.img", 0).set(&[10], [50_u64]);
    let mapping = Mapping {
        inside: 0,
        outside: 100_000,
        count: 65_536,
    };
    case.granted.mappings.users = vec![mapping];
    case.granted.mappings.groups = vec![mapping];
    let extent = |outside: u64| {
        Message::default()
            .with(1, 0)
            .with(2, outside)
            .with(3, 65_536)
    };
    let maps = |outside: u64| {
        Message::default()
            .with(1, extent(outside))
            .with(2, extent(100_000))
    };
    case.tree.add("userns-50.img", maps(100_000));
    case.passes();
    case.tree
        .images
        .insert("userns-50.img".to_owned(), vec![maps(0)]);
    case.is_refused("mappings");
}
