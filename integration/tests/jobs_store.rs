//! The catalogue of the store has the checkpoints of jobs and those of containers.

use std::fs;
use std::path::PathBuf;

use cedana_integration::asked::Asked;
use cedana_integration::daemon::Daemon;
use cedana_integration::folder::Folder;
use cedana_integration::{Output, command};
use serde_json::Value;

/// A daemon with a store of its own, and settings that name it.
struct Node {
    daemon: Daemon,
    folder: Folder,
}

impl Node {
    fn start(label: &str, memory: &str, prepare: impl FnOnce(&Folder)) -> Self {
        let folder = Folder::new(&format!("{label}-node"));
        prepare(&folder);
        let settings = format!(
            "[checkpoint]\nstore = \"{memory}\"\n[store]\npath = \"{}\"\ngrace = \"0s\"\n",
            folder.file("store").display()
        );
        let file = folder.file("config.toml");
        fs::write(&file, settings).unwrap_or_else(|error| panic!("{error}"));
        let file = file.display().to_string();
        let daemon = Daemon::start_with_settings(label, &["--tcp", "off"], &file);
        Self { daemon, folder }
    }

    fn cedana(&self, arguments: &[&str]) -> Output {
        let settings = format!(
            "CEDANA_CONFIG={}",
            self.folder.file("config.toml").display()
        );
        let socket = self.daemon.path("socket");
        let cedana = [&*settings, "cedana", "--daemon", &socket];
        command("env", &[&cedana[..], arguments].concat())
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.cedana(&["checkpoint", "list", "--json"]).ok().stdout;
        let read = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        listed.lines().map(read).collect()
    }

    /// Dumps a job to a directory.
    fn dump(&self, job: &str, to: &Folder) -> PathBuf {
        let said = self.cedana(&["dump", "job", job, "-d", &to.text()]).ok();
        PathBuf::from(said.stdout.split_whitespace().last().unwrap_or_default())
    }
}

#[test]
fn a_dump_by_reference_is_listed_once_and_kept_as_long_as_its_archive() {
    let node = Node::start("listed", "reference", |_| {});
    let dumps = Folder::new("listed-dumps");
    let mut job = Asked::start(&node.daemon, "listed", &[]);
    let archive = node.dump("listed", &dumps);
    let listed = node.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["job"], "listed");
    assert_eq!(listed[0]["path"], archive.display().to_string());
    let counted = node.daemon.job_is("listed", "checkpointed");
    assert_eq!(counted["checkpoints"]["local"], 1);
    node.cedana(&["restore", "job", "listed"]).ok();
    job.answers();

    // The archive is in a directory of the owner's, so it outlives the job.
    node.cedana(&["job", "delete", "--force", "listed"]).ok();
    let listed = node.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["job"], Value::Null);
    let id = listed[0]["id"].as_str().unwrap_or_default().to_owned();
    let short = &id[..12];
    node.cedana(&["store", "gc"]).ok();
    let shown = node.cedana(&["checkpoint", "inspect", short]).ok();
    assert!(shown.stdout.contains(&id), "{shown}");
    let refused = node.cedana(&["checkpoint", "delete", short]).refused();
    assert!(
        refused.contains("still exists") && refused.contains(&archive.display().to_string()),
        "{refused}"
    );
    let path = archive.display().to_string();
    node.cedana(&["restore", "process", "-p", &path, "-i", "again"])
        .ok();
    node.cedana(&["job", "delete", "--force", "again"]).ok();

    // What is pinned outlives the archive, too.
    node.cedana(&["checkpoint", "pin", short]).ok();
    fs::remove_file(&archive).unwrap_or_else(|error| panic!("{error}"));
    node.cedana(&["store", "gc"]).ok();
    let refused = node.cedana(&["checkpoint", "delete", &id]).refused();
    assert!(refused.contains("pinned"), "{refused}");
    node.cedana(&["checkpoint", "unpin", short]).ok();
    node.cedana(&["checkpoint", "delete", short]).ok();
    assert!(node.listed().is_empty());
}

#[test]
fn a_damaged_catalogue_stops_no_job() {
    let content = "no database at all, but a text of some length\n".repeat(40);
    let node = Node::start("damaged", "auto", |folder| {
        let store = folder.file("store");
        fs::create_dir(&store).unwrap_or_else(|error| panic!("{error}"));
        let written = fs::write(store.join("catalogue.db"), &content);
        written.unwrap_or_else(|error| panic!("{error}"));
    });
    let dumps = Folder::new("damaged-dumps");
    let mut job = Asked::start(&node.daemon, "damaged", &[]);
    let archive = node.dump("damaged", &dumps).display().to_string();
    node.cedana(&["ps", "-a"]).ok();
    node.cedana(&["restore", "job", "damaged", "-p", &archive])
        .ok();
    job.answers();
    node.cedana(&["job", "delete", "--force", "damaged"]).ok();
    let log = node.daemon.log();
    let said = log
        .matches("the checkpoints of jobs are not listed")
        .count();
    assert_eq!(said, 1, "{log}");
    assert!(log.contains("catalogue.db is damaged"), "{log}");
    let left = fs::read_to_string(node.folder.file("store/catalogue.db"));
    assert_eq!(left.unwrap_or_default(), content);
}
