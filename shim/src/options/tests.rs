use containerd_shim::protos::{
    protobuf::{Message, well_known_types::any::Any},
    shim::oci,
};

use super::checkpoint::{CheckpointOptions, LINUX_CHECKPOINT, RUNC_CHECKPOINT};
use super::create::{CreateOptions, LINUX_CREATE, RUNC_OPTIONS, RUNTIME_OPTIONS};

fn any(name: &str, value: Vec<u8>) -> Any {
    Any {
        type_url: name.into(),
        value,
        ..Any::default()
    }
}

/// Encodes text fields of a protobuf message.
fn texts(fields: &[(u8, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(number, text)| [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat())
        .collect()
}

#[test]
fn a_known_field_of_the_wrong_type_is_malformed() {
    let no_text = [9 << 3 | 2, 1, 0xff].to_vec();
    for value in [no_text, vec![9 << 3, 1]] {
        let sent = any(LINUX_CHECKPOINT, value);
        let refusal = CheckpointOptions::from_request(Some(&sent)).unwrap_err();
        assert!(refusal.to_string().contains("field 9"), "{refusal}");
    }
    // An unknown field may have any type.
    let sent = any(LINUX_CHECKPOINT, vec![14 << 3 | 2, 1, 0xff]);
    assert_eq!(
        CheckpointOptions::from_request(Some(&sent)).unwrap(),
        CheckpointOptions::default()
    );
}

#[test]
fn no_options_are_the_defaults() {
    assert_eq!(
        CreateOptions::from_request(None).unwrap(),
        CreateOptions::default()
    );
    assert_eq!(
        CheckpointOptions::from_request(Some(&Any::default())).unwrap(),
        CheckpointOptions::default()
    );
}

#[test]
fn runc_options_are_read() {
    let sent = oci::Options {
        binary_name: "crun".into(),
        systemd_cgroup: true,
        ..Default::default()
    };
    let read =
        CreateOptions::from_request(Some(&any(RUNC_OPTIONS, sent.write_to_bytes().unwrap())))
            .unwrap();
    assert_eq!(read.binary_name, "crun");
    assert!(read.systemd_cgroup);
}

#[test]
fn only_runcs_own_message_tells_the_runtimes_name() {
    assert!(CreateOptions::is_runc_message(Some(&any(
        RUNC_OPTIONS,
        vec![]
    ))));
    for name in [RUNTIME_OPTIONS, LINUX_CREATE, ""] {
        assert!(
            !CreateOptions::is_runc_message(Some(&any(name, vec![]))),
            "{name}"
        );
    }
    assert!(!CreateOptions::is_runc_message(None));
}

#[test]
fn a_toml_body_is_read_and_its_unknown_keys_refused() {
    let body = texts(&[(3, "BinaryName = \"crun\"\nIoUid = 7\n")]);
    let read = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, body))).unwrap();
    assert_eq!((read.binary_name.as_str(), read.io_uid), ("crun", 7));

    let body = texts(&[(3, "BinaryNam = \"crun\"\n")]);
    let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, body))).unwrap_err();
    assert!(refusal.to_string().contains("BinaryNam"), "{refusal}");
}

#[test]
fn path_and_body_contradict_each_other() {
    let both = texts(&[(2, "/etc/x.toml"), (3, "Root = \"/x\"")]);
    let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, both))).unwrap_err();
    assert!(refusal.to_string().contains("contradict"), "{refusal}");
}

#[test]
fn a_missing_config_path_is_named() {
    let path = texts(&[(2, "/nonexistent/x.toml")]);
    let refusal = CreateOptions::from_request(Some(&any(RUNTIME_OPTIONS, path))).unwrap_err();
    assert!(
        refusal.to_string().contains("/nonexistent/x.toml"),
        "{refusal}"
    );
}

#[test]
fn unknown_messages_are_named() {
    let refusal = CreateOptions::from_request(Some(&any("acme.Options", vec![]))).unwrap_err();
    assert!(refusal.to_string().contains("acme.Options"), "{refusal}");
}

#[test]
fn unknown_fields_are_ignored() {
    // A number, invalid text, four and eight bytes; then a known field.
    let mut sent = vec![15 << 3, 1, 14 << 3 | 2, 1, 0xff];
    sent.extend([15 << 3 | 5, 0, 0, 0, 0, 14 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    sent.extend([1 << 3, 1]);
    for message in [RUNC_CHECKPOINT, LINUX_CHECKPOINT] {
        let read = CheckpointOptions::from_request(Some(&any(message, sent.clone()))).unwrap();
        assert_eq!(read.exit, Some(true), "{message}");
    }
    for message in [RUNC_OPTIONS, LINUX_CREATE] {
        let read = CreateOptions::from_request(Some(&any(message, sent.clone()))).unwrap();
        assert!(read.no_pivot_root, "{message}");
    }
}

#[test]
fn a_parent_is_read() {
    let read = |value| CheckpointOptions::from_request(Some(&any(RUNC_CHECKPOINT, value)));
    let sent = texts(&[(10, "../first")]);
    assert_eq!(read(sent).unwrap().parent_path, "../first");
    let garbled = read(vec![10 << 3 | 2, 1, 0xff]).unwrap_err();
    assert!(garbled.to_string().contains("malformed"), "{garbled}");
}

#[test]
fn a_client_says_that_it_stops_the_container_later() {
    let read = |value| CheckpointOptions::from_request(Some(&any(RUNC_CHECKPOINT, value)));
    // The key of field 50000 with a number, as a varint.
    let sent = vec![0x80, 0xb5, 0x18, 1];
    assert!(read(sent).unwrap().stopped_later);
    assert!(!read(vec![]).unwrap().stopped_later);
}

#[test]
fn containerds_default_options_are_read() {
    // `containerd config default`, 1.7.24.
    let text = "BinaryName = \"\"\nCriuImagePath = \"\"\nCriuPath = \"\"\nCriuWorkPath = \"\"\n\
                IoGid = 0\nIoUid = 0\nNoNewKeyring = false\nNoPivotRoot = false\n\
                Root = \"\"\nShimCgroup = \"\"\nSystemdCgroup = true\n";
    assert!(CreateOptions::from_toml("x", text).unwrap().systemd_cgroup);
}

#[test]
fn the_first_shim_api_swaps_the_paths() {
    let mut sent = vec![1 << 3, 1];
    sent.extend(texts(&[(8, "/work"), (9, "/image")]));
    let read = CheckpointOptions::from_request(Some(&any(LINUX_CHECKPOINT, sent))).unwrap();
    assert_eq!(read.exit, Some(true));
    assert_eq!(
        (read.work_path.as_str(), read.image_path.as_str()),
        ("/work", "/image")
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(name in 0usize..6, value: Vec<u8>) {
        let names = [RUNC_OPTIONS, RUNTIME_OPTIONS, LINUX_CREATE, RUNC_CHECKPOINT, LINUX_CHECKPOINT, "x"];
        let any = any(names[name], value);
        let _ = CreateOptions::from_request(Some(&any));
        let _ = CheckpointOptions::from_request(Some(&any));
    }
}
