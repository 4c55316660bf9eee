//! The event stream of containerd, as `ctr events` prints it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::ctr::{ctr_command, ctr_ok};
use crate::{eventually, unique};

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its topic, for example `/tasks/start`.
    pub topic: String,
    /// Its fields, as containerd names them in JSON.
    pub body: Value,
}

/// All events from [`Events::watch`] on.
pub struct Events {
    ctr: Child,
    seen: Arc<Mutex<Vec<Event>>>,
}

impl Events {
    /// Subscribes; later events are not missed.
    #[track_caller]
    pub fn watch() -> Self {
        let mut ctr = ctr_command(&["events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("`ctr events` did not start: {error}"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let output = ctr
            .stdout
            .take()
            .unwrap_or_else(|| unreachable!("stdout is piped"));
        let keep = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(event) = parse(&line) {
                    lock(&keep).push(event);
                }
            }
        });
        let events = Self { ctr, seen };
        // ctr does not print when it has subscribed, so harmless events are made
        // until it prints one.
        eventually("`ctr events` is subscribed", || {
            let probe = unique("probe");
            ctr_ok(&["namespaces", "create", &probe]);
            ctr_ok(&["namespaces", "remove", &probe]);
            match lock(&events.seen).is_empty() {
                true => Err("no event yet".into()),
                false => Ok(()),
            }
        });
        events
    }

    /// The events of one container so far.
    pub fn of(&self, container: &str) -> Vec<Event> {
        let ours = |event: &&Event| {
            ["container_id", "id"]
                .iter()
                .any(|key| event.body[key] == container)
        };
        lock(&self.seen).iter().filter(ours).cloned().collect()
    }

    /// The topics of one container's task so far, without `/tasks/`.
    pub fn topics_of(&self, container: &str) -> Vec<String> {
        let events = self.of(container);
        events
            .iter()
            .filter_map(|e| e.topic.strip_prefix("/tasks/"))
            .map(Into::into)
            .collect()
    }

    /// Waits for an event of a container and returns it.
    #[track_caller]
    pub fn expect(&self, container: &str, topic: &str) -> Event {
        eventually(&format!("{topic} of {container}"), || {
            let found = self.of(container).into_iter().find(|e| e.topic == topic);
            found.ok_or_else(|| format!("{:?}", self.topics_of(container)))
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.ctr.kill();
        let _ = self.ctr.wait();
    }
}

/// Parses `DATE TIME ZONE NAME NAMESPACE TOPIC JSON`. The number of the date's words
/// varies, but only the topic begins with a slash.
fn parse(line: &str) -> Option<Event> {
    let start = line.find(" /")? + 1;
    let (topic, body) = line[start..].split_once(' ')?;
    Some(Event {
        topic: topic.into(),
        body: serde_json::from_str(body).ok()?,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
