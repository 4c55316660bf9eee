//! `inspect`.

use crate::stage::Stage;

#[test]
fn a_checkpoint_is_inspected_without_a_runtime() {
    let stage = Stage::new("exit 1");
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../checkpoint/src/inspect/data"
    );
    let text = stage.run(&["inspect", data]);
    assert!(text.status.success(), "{text:?}");
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    for shown in ["Processes (5)", "tcp6", "[::]:8081", "memfd:scratchpad"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    let json = stage.run(&["inspect", "--json", data]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["processes"][0]["comm"], "python3");
    let error = stage.run(&["inspect", "images"]);
    assert_eq!(error.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&error.stderr).contains("images"));
}
