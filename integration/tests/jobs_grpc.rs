//! Clients of the daemon that are not ours: Python's grpcio, which learns our messages by
//! reflection.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cedana_integration::daemon::{Daemon, own_address};
use cedana_integration::folder::Folder;
use cedana_integration::{Output, command};

const CLIENT: &str = include_str!("clients/reflect.py");

/// Runs the client.
fn python(folder: &Folder, arguments: &[&str]) -> Output {
    let script = folder.file("reflect.py").display().to_string();
    fs::write(&script, CLIENT).expect("written");
    command(
        "timeout",
        &[&["150", "python3", &script], arguments].concat(),
    )
}

fn has_run(client: Output) {
    let said = client.ok().stdout;
    assert!(said.ends_with(" root JOB_STATE_ENDED 3\n"), "{said}");
}

#[test]
fn a_python_client_runs_and_lists_jobs_over_socket_and_tcp() {
    let address = own_address();
    let daemon = Daemon::start_with("grpc", &["--tcp", &address]);
    let folder = Folder::new("python");
    has_run(python(
        &folder,
        &[&format!("unix:{}", daemon.path("socket")), ""],
    ));
    let token = fs::read_to_string(daemon.path("state/token")).expect("a token");
    has_run(python(&folder, &[&address, token.trim()]));
    let refused = python(&folder, &[&address, "wrong"]).refused();
    assert!(refused.contains("UNAUTHENTICATED"), "{refused}");
    let refused = python(&folder, &[&address, ""]).refused();
    assert!(refused.contains("UNAUTHENTICATED"), "{refused}");
}

#[test]
fn a_python_client_dumps_and_restores_a_job() {
    let daemon = Daemon::start("grpc");
    let (folder, dumps) = (Folder::new("python"), Folder::new("dumps"));
    let socket = format!("unix:{}", daemon.path("socket"));
    let dump = format!("--dump={}", dumps.text());
    let said = python(&folder, &[&dump, &socket, ""]).ok().stdout;
    let words: Vec<Vec<&str>> = said.lines().map(|l| l.split(' ').collect()).collect();
    let [dumped, restored] = &words[..] else {
        panic!("{said}");
    };
    let (job, bytes, path) = (dumped[1], dumped[2], dumped[3]);
    assert!(bytes.parse::<u64>().is_ok_and(|bytes| bytes > 0), "{said}");
    assert!(path.starts_with(&dumps.text()), "{said}");
    let archive = fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(archive.len() > 0);
    assert_eq!(restored[..2], ["restored", job]);
    assert_eq!(daemon.pid_of(job).to_string(), restored[2]);
    assert_eq!(daemon.job(job)["checkpoints"]["local"], 1);
    daemon.ok(&["kill", job]);
}

/// Makes an authority, and certificates that it has signed.
fn certificates(folder: &Folder, address: &str) {
    let script = r#"
        authority() { # NAME
          openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj "/CN=$1" -keyout "$1.key" -out "$1.pem"
        }
        signed() { # NAME AUTHORITY
          openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" \
            -keyout "$1.key" -out "$1.csr"
          printf 'subjectAltName=IP:%s\n' "$ip" >"$1.ext"
          openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 2 \
            -extfile "$1.ext" -out "$1.pem"
        }
        cd "$1" && ip=$2
        authority ca && authority stranger && signed daemon ca && signed client ca &&
          signed thief stranger"#;
    command("sh", &["-c", script, "sh", &folder.text(), address]).ok();
}

#[test]
fn over_another_address_both_sides_need_certificates() {
    let folder = Folder::new("tls");
    // An address of this machine that is not loopback.
    command("ip", &["address", "add", "10.77.0.1/32", "dev", "lo"]);
    let address = "10.77.0.1:7070".to_owned();
    certificates(&folder, "10.77.0.1");
    let path = |name: &str| folder.file(name).display().to_string();
    let settings = format!(
        "[daemon]\ntls_certificate = \"{}\"\ntls_key = \"{}\"\ntls_client_ca = \"{}\"\n",
        path("daemon.pem"),
        path("daemon.key"),
        path("ca.pem")
    );
    fs::write(folder.file("config.toml"), settings).expect("written");
    let config = path("config.toml");
    let _daemon = Daemon::start_with_settings("tls", &["--tcp", &address], &config);
    let with = |name: &str| {
        let (certificate, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        python(
            &folder,
            &[&address, "", &path("ca.pem"), &certificate, &key],
        )
    };
    has_run(with("client"));
    let refused = with("thief").refused();
    assert!(refused.contains("UNAVAILABLE"), "{refused}");
    // Neither without a certificate nor without TLS.
    let socket = address.as_str();
    let shown = command(
        "sh",
        &[
            "-c",
            "echo | openssl s_client -connect \"$1\" -CAfile \"$2\" -alpn h2 2>&1; sleep 0.2",
            "sh",
            socket,
            &path("ca.pem"),
        ],
    );
    assert!(
        shown.stdout.contains("ertificate required")
            || shown.stdout.contains("Acceptable client certificate"),
        "{shown}"
    );
    let answer = without_tls(&address);
    // At most an alert of TLS (RFC 8446, 5.1), and nothing of HTTP/2.
    assert!(answer.first().is_none_or(|&kind| kind == 21), "{answer:?}");
}

/// What the daemon answers to a client of HTTP/2 without TLS before it closes the connection.
/// Not by Python's client, which can hang at this.
fn without_tls(address: &str) -> Vec<u8> {
    let mut connection = TcpStream::connect(address).expect("connected");
    let soon = Some(Duration::from_secs(60));
    connection.set_read_timeout(soon).expect("a time limit");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    connection.write_all(preface).expect("sent");
    let mut answer = Vec::new();
    match connection.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => answer,
    }
}
