//! Connections, names and ports of restored containers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use cedana_integration::docker::{Container, Network, Run, WORK, docker_ok, no_restore_here};
use cedana_integration::nginx::{Client, nginx};
use cedana_integration::{Output, command, eventually, nftables};

/// Asserts that a client's connection stays open while the server is checkpointed,
/// ended and restored.
#[track_caller]
fn stays_connected(server: &Container, address: &str) {
    let mut client = Client::of(address);
    let answer = client.ask().expect("a second answer");
    let (connection, _) = answer.split_once(" request").expect("nginx counts");
    let mut requests = 2;
    for round in ["one", "two", "three"] {
        server.checkpoint_and_exit(round);
        server.restore_and_run(round);
        requests += 1;
        client.continues(connection, requests);
    }
    // New clients can connect.
    Client::of(address);
}

#[test]
fn a_client_stays_connected_through_the_bridge() {
    if no_restore_here() {
        return;
    }
    let network = Network::create("bridge");
    let server = nginx("bridge")
        .flags(&["--network", network.name()])
        .start();
    stays_connected(&server, &format!("{}:80", server.address()));
}

#[test]
fn a_client_stays_connected_through_a_published_port() {
    if no_restore_here() {
        return;
    }
    let network = Network::create("published");
    let server = nginx("published")
        .flags(&["--network", network.name(), "--publish", "28080:80"])
        .start();
    // Through 127.0.0.1 the client would be connected to docker-proxy, which exits with
    // the container.
    stays_connected(&server, &format!("{}:28080", server.gateway()));
}

#[test]
fn a_client_stays_connected_to_a_server_that_is_left_running() {
    let network = Network::create("runs-on");
    let server = nginx("runs-on")
        .flags(&["--network", network.name(), "--publish", "28081:80"])
        .leaves_running()
        .start();
    for address in [
        format!("{}:80", server.address()),
        format!("{}:28081", server.gateway()),
        "127.0.0.1:28081".to_owned(),
    ] {
        let mut client = Client::of(&address);
        let answer = client.ask().expect("a second answer");
        let (connection, _) = answer.split_once(" request").expect("nginx counts");
        let name = address.replace(['.', ':'], "-");
        server.checkpoint_running(&name).ok();
        client.continues(connection, 3);
    }
}

#[test]
fn published_ports_work_after_a_restore() {
    if no_restore_here() {
        return;
    }
    let server = nginx("ports").flags(&["--publish", "28082:80"]).start();
    Client::of("127.0.0.1:28082");
    server.checkpoint_and_exit("cp");
    server.restore_and_run("cp");
    Client::of("127.0.0.1:28082");
    Client::of(&format!("{}:80", server.address()));
    let shown = docker_ok(&["port", server.name()]);
    assert!(shown.contains("28082"), "{shown}");
}

#[test]
fn names_are_resolved_after_a_restore() {
    if no_restore_here() {
        return;
    }
    let network = Network::create("names");
    let peer = Run::new("peer")
        .flags(&["--network", network.name(), "--network-alias", "database"])
        .workload(&[])
        .start();
    let container = Run::new("names")
        .image(WORK)
        .flags(&["--network", network.name(), "--network-alias", "app"])
        .workload(&["--memory", "1"])
        .start();
    let resolves = |name: &str| {
        eventually(&format!("{name} is resolved"), || {
            let answer = container.exec(&["getent", "hosts", name]);
            match answer.code {
                0 => Ok(answer.stdout),
                _ => Err(answer.to_string()),
            }
        })
    };
    assert!(resolves("database").contains(&peer.address()));
    container.checkpoint_and_exit("cp");
    container.restore_and_run("cp");
    assert!(resolves("database").contains(&peer.address()));
    assert!(resolves("app").contains(&container.address()));
}

#[test]
fn redis_keeps_its_data_and_its_subscriber() {
    if no_restore_here() {
        return;
    }
    let network = Network::create("redis");
    let server = Run::new("redis")
        .image(WORK)
        .flags(&["--network", network.name(), "--network-alias", "redis"])
        .command(&[
            "redis-server",
            "--save",
            "",
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
        ])
        .start();
    eventually("redis answers", || {
        let pong = server.exec(&["redis-cli", "ping"]);
        if pong.code == 0 {
            Ok(())
        } else {
            Err(pong.to_string())
        }
    });
    let subscriber = Run::new("subscriber")
        .image(WORK)
        .flags(&["--network", network.name()])
        .command(&[
            "sh",
            "-c",
            "exec redis-cli -h redis subscribe news >/out/heard",
        ])
        .start();
    let subscribers = |message: &str| {
        let heard_by = server.exec(&["redis-cli", "publish", "news", message]).ok();
        heard_by.stdout.trim().to_owned()
    };
    eventually("the subscriber is subscribed", || {
        match subscribers("first").as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    server.exec(&["redis-cli", "set", "key", "kept"]).ok();
    for round in ["one", "two"] {
        server.checkpoint_and_exit(round);
        server.restore_and_run(round);
        assert_eq!(
            server.exec(&["redis-cli", "get", "key"]).ok().stdout,
            "kept\n"
        );
        assert_eq!(subscribers(round), "1");
        subscriber.reads("heard", |text| text.contains(round).then_some(()));
    }
}

/// A client in a container. It prints the number of echoes, and how the connection
/// ends.
const ECHOED: &str = "
import os, socket, sys, time
def say(what):
    with open('/out/draft', 'w') as f: f.write(what)
    os.rename('/out/draft', '/out/said')
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
n = 0
try:
    while True:
        s.sendall(b'x')
        if not s.recv(1): raise OSError('end')
        n += 1
        say('echo %d' % n)
        time.sleep(0.02)
except OSError as e:
    say('lost: %s' % e)
while True: time.sleep(1)";

/// Starts a server on the machine that runs until the test program exits. `talk` gets
/// each connection with its number.
fn server(talk: fn(u64, TcpStream)) -> u16 {
    let listener = TcpListener::bind(("0.0.0.0", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming().map_while(Result::ok)) {
            thread::spawn(move || talk(number, stream));
        }
    });
    port
}

/// Starts a server that echoes.
fn echo() -> u16 {
    server(|_, mut stream| {
        let mut byte = [0];
        while stream
            .read_exact(&mut byte)
            .and_then(|()| stream.write_all(&byte))
            .is_ok()
        {}
    })
}

/// A container with a connection to the machine, and its network.
struct Caller {
    container: Container,
    network: Network,
}

impl Caller {
    #[track_caller]
    fn start(subnet: u8, flags: &[&str]) -> Self {
        Self::running(ECHOED, echo(), subnet, flags)
    }

    /// Runs a program with an address and a port of the machine.
    #[track_caller]
    fn running(program: &str, port: u16, subnet: u8, flags: &[&str]) -> Self {
        let label = "caller";
        // Docker accepts `--ip` only in a network with a configured subnet.
        let prefix = format!("10.213.{subnet}");
        let subnet = format!("{prefix}.0/24");
        let network = Network::with(label, &["--subnet", &subnet]);
        // The server listens on all addresses: the bridge's exists only with a container.
        let port = port.to_string();
        let gateway = format!("{prefix}.1");
        let container = Run::new(label)
            .image(WORK)
            .flags(&["--network", network.name()])
            .flags(flags)
            .command(&["python3", "-c", program, &gateway, &port])
            .start();
        let caller = Self { container, network };
        caller.hears(0);
        caller
    }

    /// Waits for more than `echoes` echoes, and returns their number.
    #[track_caller]
    fn hears(&self, echoes: u32) -> u32 {
        self.container.reads("said", |said| {
            let n = said.strip_prefix("echo ")?.parse().ok()?;
            (n > echoes).then_some(n)
        })
    }

    #[track_caller]
    fn loses_its_connection(&self) {
        let how = self.container.reads("said", |said| {
            said.strip_prefix("lost: ").map(str::to_owned)
        });
        // A read returns the end of file, a write an error.
        assert!(how == "end" || how.contains("Errno"), "{how}");
        self.container.running();
    }

    /// Ends it with a checkpoint, and starts another container with its address.
    #[track_caller]
    fn checkpoint_and_take_the_address(&self) -> Container {
        let address = self.container.address();
        self.container.checkpoint_and_exit("cp");
        Run::new("other")
            .flags(&["--network", self.network.name(), "--ip", &address])
            .workload(&[])
            .start()
    }
}

#[test]
fn a_connection_to_the_outside_is_kept_if_the_address_is_available() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::start(1, &[]);
    for round in ["one", "two"] {
        let heard = caller.hears(0);
        caller.container.checkpoint_and_exit(round);
        caller.container.restore_and_run(round);
        caller.hears(heard + 10);
    }
}

/// A client in a container with many connections. It prints the least number of bytes
/// that have arrived over one, or that one has ended.
const LISTENED: &str = "
import os, selectors, socket, sys, time
def say(what):
    with open('/out/draft', 'w') as f: f.write(what)
    os.rename('/out/draft', '/out/said')
s = selectors.DefaultSelector()
heard = {}
for _ in range(64):
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    heard[c] = 0
    s.register(c, selectors.EVENT_READ)
try:
    while True:
        for key, _ in s.select():
            came = key.fileobj.recv(4096)
            if not came: raise OSError('end')
            heard[key.fileobj] += len(came)
        say('echo %d' % min(heard.values()))
except OSError as e:
    say('lost: %s' % e)
while True: time.sleep(1)";

/// Starts a server that sends without requests, over each connection at another rate,
/// so that repeated segments arrive at all times.
fn speaker() -> u16 {
    server(|number, mut stream| {
        let pace = Duration::from_millis(50 + 13 * number);
        while stream.write_all(b"x").is_ok() {
            thread::sleep(pace);
        }
    })
}

/// A peer repeats segments that are not acknowledged. The kernel would answer them with
/// a reset if the address exists before the connection does, so the wrapper drops them
/// until CRIU has restored the connection.
#[test]
fn connections_survive_segments_that_their_peers_repeat() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::running(LISTENED, speaker(), 6, &[]);
    for round in ["one", "two", "three"] {
        let heard = caller.hears(0);
        caller.container.checkpoint_and_exit(round);
        caller.container.restore_and_run(round);
        caller.hears(heard + 3);
    }
}

#[test]
fn a_connection_is_closed_if_its_address_is_taken() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::start(2, &[]);
    let _other = caller.checkpoint_and_take_the_address();
    caller.container.restore_and_run("cp");
    caller.loses_its_connection();
}

#[test]
fn a_connection_is_closed_if_the_user_sets_that() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::start(3, &["--annotation", "io.cedana.restore.tcp=close"]);
    caller.container.checkpoint_and_exit("cp");
    caller.container.restore_and_run("cp");
    caller.loses_its_connection();
}

/// A firewall rule that drops all segments to an address, removed when dropped. Without
/// it another container with the address would answer repeated segments with a reset.
struct Silence(String);

impl Silence {
    #[track_caller]
    fn towards(address: String) -> Self {
        Self::rule("--insert", &address).ok();
        Self(address)
    }

    fn rule(verb: &str, address: &str) -> Output {
        let rule = [verb, "OUTPUT", "--destination", address, "--jump", "DROP"];
        command("iptables", &[&["--wait"], &rule[..]].concat())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        Self::rule("--delete", &self.0);
    }
}

#[test]
fn a_restore_is_refused_if_a_connection_must_be_kept_and_cannot() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::start(4, &["--annotation", "io.cedana.restore.tcp=keep"]);
    let silence = Silence::towards(caller.container.address());
    let other = caller.checkpoint_and_take_the_address();
    let reason = caller.container.restore("cp").refused();
    assert!(reason.contains("address"), "{reason}");
    // Once the address is free, a restore keeps the connection.
    let heard = caller.hears(0);
    drop(other);
    drop(silence);
    caller.container.restore_and_run("cp");
    caller.hears(heard + 10);
}

#[test]
fn a_restore_with_connections_is_refused_if_the_user_sets_that() {
    if no_restore_here() {
        return;
    }
    let caller = Caller::start(5, &["--annotation", "io.cedana.restore.tcp=refuse"]);
    caller.container.checkpoint_and_exit("cp");
    let reason = caller.container.restore("cp").refused();
    assert!(reason.contains("restore.tcp"), "{reason}");
    assert_eq!(caller.container.inspect("{{.State.Running}}"), "false");
}

#[test]
fn the_lock_of_a_killed_process_is_removed() {
    let network = Network::create("killed");
    let server = nginx("killed")
        .flags(&["--network", network.name()])
        .start();
    let mut client = Client::of(&format!("{}:80", server.address()));
    client.ask().expect("an answer");
    server.checkpoint_running("cp").ok();
    // Locks the checkpoint's connections in a network namespace of its own, as between
    // Create and Start.
    let mut holder = Command::new("cedana-runc")
        .arg("--cedana-hold-netns")
        .arg(server.checkpoint_path("cp"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the holder starts");
    let ready = holder.stdout.take().expect("a pipe");
    let mut line = String::new();
    BufReader::new(ready)
        .read_line(&mut line)
        .expect("the holder is ready");
    // Open, so that it exists after the holder.
    let open = fs::File::open(format!("/proc/{}/ns/net", holder.id())).expect("its namespace");
    let netns = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    assert!(nftables(&netns).contains("cedana-"), "{}", nftables(&netns));
    holder.kill().expect("killed");
    holder.wait().expect("reaped");
    eventually("no table is left", || match nftables(&netns).as_str() {
        "" => Ok(()),
        left => Err(left.to_owned()),
    });
}
