//! Checkpoints whose memory is in the store: by an annotation, with containerd and by
//! themselves.

use cedana_integration::checkpointed::Checkpointed;
use cedana_integration::folder::{Folder, size};
use cedana_integration::lazy::Lazy;
use cedana_integration::{Run, command};

const BY_REFERENCE: [&str; 2] = ["--annotation", "io.cedana.checkpoint.store=reference"];
const WORKLOAD: [&str; 6] = ["--memory", "64", "--children", "2", "--threads", "4"];

fn by_reference(label: &str) -> Checkpointed {
    Checkpointed::of(label, &BY_REFERENCE, &WORKLOAD)
}

#[test]
fn the_directory_refers_to_the_memory_and_a_restore_reads_it() {
    let checkpointed = by_reference("by-reference");
    let manifest = checkpointed.images.manifest();
    assert_eq!(manifest["format"], 3);
    let id = manifest["store"]["id"].as_str().unwrap_or_default();
    assert_eq!(id.len(), 32, "{manifest}");
    let bytes: u64 = checkpointed
        .images
        .names()
        .iter()
        .map(|name| size(&checkpointed.images.file(name)))
        .sum();
    assert!(bytes < 2 << 20, "{bytes} bytes beside the store");
    let said = command("cedana-runc", &["inspect", &checkpointed.images.text()]).ok();
    assert!(said.stdout.contains(id), "{said}");
    checkpointed
        .restore("cedana-runc", &checkpointed.images)
        .ok();
    checkpointed.is_restored_intact();
    // Eagerly, too, and from an unpacked copy by stock runc.
    let program = "CEDANA_RESTORE_MODE=eager cedana-runc";
    checkpointed.restore(program, &checkpointed.images).ok();
    checkpointed.is_restored_intact();
    let stock = Folder::new("stock");
    let to = stock.file("images").display().to_string();
    let from = checkpointed.images.text();
    command("cedana-runc", &["unpack", &from, "--to", &to]).ok();
    let unpacked = Folder(stock.file("images"));
    assert!(unpacked.names().iter().any(|name| name == "pages-1.img"));
    checkpointed.restore("runc", &unpacked).ok();
    checkpointed.is_restored_intact();
}

#[test]
fn memory_that_a_process_moves_drops_and_forks_comes_from_the_store() {
    let games = ["--memory", "16", "--games", "--threads", "2"];
    let lazy = Lazy::with("store-games", &BY_REFERENCE, &games);
    lazy.checkpointed
        .report_after_signal("-USR2")
        .continues(&lazy.checkpointed.before);
    lazy.completes();
    lazy.checkpointed.is_restored_intact();
    lazy.restores_completely();
}

#[test]
fn a_second_checkpoint_stores_what_has_changed() {
    let run = Run::new("second").flags(&BY_REFERENCE);
    let container = run.workload(&WORKLOAD).detach();
    let images = ["first", "second"].map(Folder::new);
    let cost = images.each_ref().map(|images| {
        container
            .task()
            .checkpoint(&images.0, None)
            .expect("a checkpoint");
        let manifest = images.manifest();
        let cost = |key: &str| manifest["cost"][key].as_u64().expect("a number");
        (cost("raw_bytes"), cost("stored_bytes"))
    });
    assert!(cost[0].0 > 64 << 20, "{cost:?}");
    assert!(cost[1].1 * 10 < cost[0].1, "{cost:?}");
}

#[test]
fn an_image_refers_to_the_store_and_is_restored_here() {
    let run = Run::new("referring").flags(&BY_REFERENCE);
    let container = run.workload(&WORKLOAD).detach();
    let before = container.report();
    let image = container.checkpoint(&["--task"]);
    container.end_task();
    let restored = container.restore(&image, &["--live"]);
    restored.report().continues(&before);
}
