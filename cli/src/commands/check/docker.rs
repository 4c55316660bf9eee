//! Docker: whether it has our runtime, and `docker checkpoint`.
//!
//! Docker is asked over its socket, because daemon.json is one of several places of its
//! settings, and may have been edited after Docker's start.

use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Machine;
use super::finding::Finding;
use super::program::PATIENCE;
use super::search_path;

const SOCKET: &str = "/run/docker.sock";

/// Docker's name of our runtime.
const RUNTIME: &str = "cedana";

/// The largest answer that is read. That of Docker 28 has 3 kB.
const MAX_ANSWER: u64 = 4 << 20;

/// Whether Docker's daemon is installed. The client alone may be another machine's.
pub(super) fn is_installed(machine: &Machine) -> bool {
    Path::new(SOCKET).exists() || search_path::find("dockerd", machine.is_root).is_some()
}

/// Docker's version, and its settings for us.
pub(super) async fn all(machine: &Machine) -> Vec<Finding> {
    if !is_installed(machine) {
        return vec![Finding::absent("docker", "not installed")];
    }
    match timeout(PATIENCE, info()).await {
        Ok(Ok(info)) => judged(&info),
        Ok(Err(error))
            if !machine.is_root && error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            vec![Finding::hidden("docker")]
        }
        Ok(Err(error)) => vec![deaf(&error.to_string())],
        Err(_) => vec![deaf("no answer")],
    }
}

fn deaf(reason: &str) -> Finding {
    Finding::lesser(
        "docker",
        format!("does not answer at {SOCKET}: {reason}"),
        "start it: systemctl start docker",
    )
    .needed_for("containers of Docker")
}

/// What `docker info` shows. A server answers a request of HTTP/1.0 unframed, and closes
/// the connection.
async fn info() -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    stream
        .write_all(b"GET /info HTTP/1.0\r\nHost: docker\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    body(&answer).ok_or_else(|| std::io::Error::other("its answer is not understood"))
}

/// The JSON of an answer that says 200.
fn body(answer: &[u8]) -> Option<Value> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at(end);
    let status = head.split(|byte| *byte == b' ').nth(1)?;
    if status != b"200" {
        return None;
    }
    serde_json::from_slice(&body[4..]).ok()
}

fn judged(info: &Value) -> Vec<Finding> {
    let version = info["ServerVersion"].as_str().unwrap_or("unknown version");
    let docker = Finding::fit("docker", format!("{version} at {SOCKET}"));
    let add = "run `make install DOCKER=1` in the sources of Cedana, and restart Docker";
    let runtime = match info["Runtimes"].get(RUNTIME) {
        Some(found) => {
            // Docker 26 and later tell only the path of one that is a program.
            let path = found["path"].as_str().filter(|path| !path.is_empty());
            let path = path.map_or_else(String::new, |path| format!(", {path}"));
            Finding::fit("docker-runtime", format!("{RUNTIME}{path}"))
        }
        None => Finding::lesser(
            "docker-runtime",
            format!("Docker has no runtime \"{RUNTIME}\""),
            add,
        ),
    };
    let checkpoint = match info["ExperimentalBuild"].as_bool() {
        Some(true) => Finding::fit("docker-command", "docker checkpoint is turned on"),
        _ => Finding::lesser(
            "docker-command",
            "docker checkpoint is turned off",
            "set \"experimental\": true in /etc/docker/daemon.json, and restart Docker",
        ),
    };
    vec![
        docker.needed_for("containers of Docker"),
        runtime.needed_for("docker run --runtime cedana"),
        checkpoint.needed_for("docker checkpoint and docker start --checkpoint"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_of_a_server() {
        let answer = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\": 1}\n";
        assert_eq!(body(answer), Some(json!({"a": 1})));
        for bad in [
            &b"HTTP/1.0 500 No\r\n\r\n{}"[..],
            b"HTTP/1.0 200 OK\r\n\r\n{",
            b"HTTP/1.0\r\n\r\n{}",
            b"",
        ] {
            assert_eq!(body(bad), None);
        }
    }

    #[test]
    fn settings_of_docker_are_judged() {
        let verdicts = |info: Value| -> Vec<Verdict> {
            judged(&info)
                .into_iter()
                .map(|found| found.verdict)
                .collect()
        };
        let set = json!({
            "ServerVersion": "28.5.2", "ExperimentalBuild": true,
            "Runtimes": {"cedana": {"path": ""}, "runc": {"path": "runc"}},
        });
        assert_eq!(judged(&set)[1].found, "cedana");
        let by_path = json!({"Runtimes": {"cedana": {"path": "/x/cedana-runc"}}});
        assert_eq!(judged(&by_path)[1].found, "cedana, /x/cedana-runc");
        assert_eq!(verdicts(set), [Verdict::Fit; 3]);
        let bare = json!({"Runtimes": null});
        assert_eq!(
            verdicts(bare),
            [Verdict::Fit, Verdict::Lesser, Verdict::Lesser]
        );
    }
}
