//! Images, numbers, descriptors and cgroups.

use super::honest::{Case, core, ids};
use super::tree::Message;
use crate::precheck::{CapabilitySet, Namespace};

#[test]
fn images_that_change_the_host_are_refused() {
    for name in [
        "apparmor.img",
        "autofs-3.img",
        "binfmt-misc.img",
        "creds-1.img",
        "rlimit-1.img",
        "reg-files.img",
    ] {
        let mut case = Case::honest();
        case.tree.add(name, Message::default());
        case.is_refused(name);
    }
}

#[test]
fn a_runtime_keeps_three_descriptors() {
    for (names, passes) in [
        (r#"["pipe:[1]","/dev/null","pipe:[2]"]"#, true),
        (r#"["a","b","c","extRootNetNS"]"#, false),
        (r#"{"3":"x"}"#, false),
    ] {
        let mut case = Case::honest();
        case.tree
            .others
            .insert("descriptors.json".to_owned(), names.into());
        match passes {
            true => case.passes(),
            false => case.is_refused("descriptors.json"),
        }
    }
}

#[test]
fn process_ids_fit_this_machine() {
    let mut case = Case::honest();
    case.tree.record("pstree.img", 0).set(&[4], [1_u64 << 30]);
    case.is_refused("kernel.pid_max");
}

#[test]
fn the_thread_of_a_zombie_is_no_number_of_a_process() {
    let mut case = Case::honest();
    let zombie = Message::default()
        .with(1, 3)
        .with(2, 1)
        .with(3, 3)
        .with(4, 1)
        .with(5, 1_440_759_344_u64);
    case.tree.add("pstree.img", zombie);
    let mut dead = core(true);
    dead.set(&[3, 1], [6_u64]);
    case.tree.add("core-3.img", dead);
    case.tree.add("ids-3.img", ids(40));
    case.passes();
    // One that lives has it.
    case.tree.record("core-3.img", 0).set(&[3, 1], [1_u64]);
    case.is_refused("kernel.pid_max");
}

#[test]
fn the_name_of_a_run_is_a_uuid() {
    let mut case = Case::honest();
    let inventory = case.tree.record("inventory.img", 0);
    inventory.set(&[13], ["8e7a0a3e-6f3b-4b57-9b0c-0d6f3a1c2b4d"]);
    case.passes();
    case.tree
        .record("inventory.img", 0)
        .set(&[13], ["x; flush ruleset"]);
    case.is_refused("UUID");
}

#[test]
fn descriptors_need_the_capabilities_that_open_them() {
    let socket = Message::default().with(4, 3);
    for (field, value, capability) in [
        (4, socket, "net_raw"),
        (6, Message::default(), "net_raw"),
        (11, Message::default(), "net_admin"),
        (14, Message::default(), "sys_admin"),
        (21, Message::default(), "bpf"),
    ] {
        let mut case = Case::honest();
        case.granted.bounding = CapabilitySet::default();
        let entry = Message::default().with(1, 5).with(2, 9).with(field, value);
        case.tree.add("files.img", entry);
        let name = capability.to_uppercase();
        let is_named = |case: &Case| {
            case.refusals()
                .iter()
                .any(|refusal| refusal.gives.contains(&format!("no CAP_{name}")))
        };
        // The processes' own capabilities come first, and fill the list.
        for image in ["core-1.img", "core-2.img"] {
            for set in [10, 11, 12] {
                case.tree.record(image, 0).set(&[5, 10, set], [0_u64, 0]);
            }
        }
        assert!(is_named(&case), "{capability}: {:?}", case.refusals());
        case.granted.bounding = CapabilitySet::named([capability]);
        assert!(!is_named(&case), "{capability}");
    }
}

#[test]
fn a_namespace_of_the_host_is_not_open() {
    let mut case = Case::honest();
    let namespace = |id: u64| {
        let nsf = Message::default()
            .with(1, 9)
            .with(2, id)
            .with(3, 0x4000_0000)
            .with(4, 0);
        Message::default().with(1, 14).with(2, 9).with(5, nsf)
    };
    case.tree.add("files.img", namespace(46));
    case.passes();
    case.tree.add("files.img", namespace(8));
    case.is_refused("host's network namespace open");
}

#[test]
fn cgroups_have_plain_names_below_the_containers() {
    // A member's path, a directory's name, and a property's.
    for (path, value, words) in [
        (&[1, 2, 2][..], "/docker/c/../../etc", "plain name"),
        (&[1, 2, 2], "/system.slice", "not below"),
        (&[1, 2, 2], "docker/c", "plain name"),
        (&[2, 2, 1], "docker/../c", "plain name"),
        (&[2, 2, 3, 1], "../../../etc/shadow", "plain name"),
        (&[2, 2, 3, 1], "..", "plain name"),
    ] {
        let mut case = Case::honest();
        case.tree.record("cgroup.img", 0).set(path, [value]);
        case.is_refused(words);
    }
    let mut case = Case::honest();
    case.tree
        .record("cgroup.img", 0)
        .set(&[1, 2, 2], ["/docker/c/init.scope"]);
    let child = Message::default().with(1, "init.scope");
    case.tree.record("cgroup.img", 0).set(&[2, 2, 2], [child]);
    case.passes();
    let child = Message::default().with(1, "..");
    case.tree.record("cgroup.img", 0).set(&[2, 2, 2], [child]);
    case.is_refused("plain name");
    let deep = (0..40).fold(Message::default().with(1, "a"), |child, _| {
        Message::default().with(1, "a").with(2, child)
    });
    case.tree.record("cgroup.img", 0).set(&[2, 2, 2], [deep]);
    case.is_refused("plain name");
}

#[test]
fn cgroups_belong_to_root() {
    let mut case = Case::honest();
    case.tree
        .record("cgroup.img", 0)
        .set(&[2, 2, 4, 2], [1000_u64]);
    case.is_refused("user 1000");
    let mut case = Case::honest();
    case.tree
        .record("cgroup.img", 0)
        .set(&[2, 2, 4, 1], [0o777_u64]);
    case.is_refused("mode 777");
}

#[test]
fn a_cgroup_namespace_has_its_root() {
    let mut case = Case::honest();
    case.granted.namespaces.insert(Namespace::Cgroup);
    case.is_refused("root of the container's cgroup namespace");
    case.tree.record("cgroup.img", 0).set(&[1, 2, 3], [9_u64]);
    case.passes();
    case.tree.record("cgroup.img", 0).set(&[1, 2, 3], [900_u64]);
    case.is_refused("not below");
}

#[test]
fn a_hierarchy_has_one_cgroup_of_the_container() {
    // One that CRIU would not move, beside the container's.
    let mut case = Case::honest();
    let directory = |name: &str| Message::default().with(1, name);
    case.tree
        .record("cgroup.img", 0)
        .set(&[2, 2], [directory("docker/c"), directory("system.slice")]);
    case.is_refused("several in a hierarchy");
    case.tree
        .record("cgroup.img", 0)
        .set(&[2, 2], [directory("system.slice")]);
    case.is_refused("no process");
    // A root of the namespace within a name: CRIU would join the rest to the new one.
    let mut case = Case::honest();
    case.tree.record("cgroup.img", 0).set(&[1, 2, 3], [2_u64]);
    case.is_refused("not below");
    case.tree.record("cgroup.img", 0).set(&[1, 2, 3], [7_u64]);
    case.passes();
}

#[test]
fn init_is_in_a_cgroup_namespace() {
    let mut case = Case::honest();
    case.granted.namespaces.insert(Namespace::Cgroup);
    case.tree.record("cgroup.img", 0).set(&[1, 2, 3], [9_u64]);
    case.passes();
    case.tree.record("core-1.img", 0).set(&[5, 16], [1_u64]);
    case.is_refused("root of the container's cgroup namespace");
}

#[test]
fn firewall_rules_name_no_program() {
    let mut case = Case::honest();
    case.tree
        .others
        .insert("iptables-3.img".to_owned(), b"-A INPUT -j DROP".to_vec());
    case.passes();
    case.tree
        .others
        .insert("iptables-3.img".to_owned(), b"--modprobe=/x".to_vec());
    case.is_refused("iptables-3.img");
}
