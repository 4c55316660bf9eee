//! nginx in a container, which counts the requests of each connection, and its clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::docker::{Run, WORK};
use crate::eventually;

/// Answers with the connection's number and its number of requests.
///
/// As root: CRIU needs CAP_SYS_RESOURCE to dump another user's process.
const CONFIGURATION: &str = "user root; daemon off; worker_processes 2; pid /tmp/nginx.pid;
error_log stderr; events { worker_connections 4000; }
http { access_log off; keepalive_timeout 1h; keepalive_requests 1000000;
  server { listen 80; default_type text/plain;
    location / { return 200 \"connection $connection request $connection_requests\\n\"; } } }";

/// A container with nginx, of which each answer has the connection's number and its number
/// of requests.
pub fn nginx(label: &str) -> Run {
    let run = Run::new(label).image(WORK);
    fs::write(run.out().join("nginx.conf"), CONFIGURATION).expect("/out");
    run.command(&["nginx", "-c", "/out/nginx.conf", "-e", "stderr"])
}

/// A client that never reconnects.
pub struct Client(TcpStream);

impl Client {
    /// Connects, and waits for the first answer.
    #[track_caller]
    pub fn of(address: &str) -> Self {
        let stream = eventually(&format!("{address} answers"), || {
            let mut client = TcpStream::connect(address)
                .map(Self)
                .map_err(|e| e.to_string())?;
            client
                .0
                .set_read_timeout(Some(Duration::from_secs(60)))
                .map_err(|e| e.to_string())?;
            // docker-proxy accepts connections before the container does.
            client.ask().map(|_| client.0)
        });
        Self(stream)
    }

    /// Connects to a server that listens.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time limit");
        Self(stream)
    }

    /// Sends a request and returns the answer.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn ask(&mut self) -> Result<String, String> {
        self.0
            .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            .map_err(|e| e.to_string())?;
        let mut answer = String::new();
        let mut chunk = [0; 4096];
        loop {
            let n = self.0.read(&mut chunk).map_err(|e| e.to_string())?;
            if n == 0 {
                return Err(format!("closed after {answer:?}"));
            }
            answer.push_str(&String::from_utf8_lossy(&chunk[..n]));
            if let Some((_, body)) = answer.split_once("\r\n\r\n")
                && body.ends_with('\n')
            {
                return Ok(body.trim().to_owned());
            }
        }
    }

    /// Asserts that the next request arrives over the same connection.
    #[track_caller]
    pub fn continues(&mut self, connection: &str, request: u32) {
        let answer = self
            .ask()
            .unwrap_or_else(|e| panic!("the connection is lost: {e}"));
        assert_eq!(answer, format!("{connection} request {request}"));
    }
}
