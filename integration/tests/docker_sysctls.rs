//! The network's sysctls of a container: those of `--sysctl`, and those that Docker sets.

use cedana_integration::answering::{answer, command_line};
use cedana_integration::docker::{Run, no_restore_here};

/// Holds an ICMP socket, which only `net.ipv4.ping_group_range` allows. Answers with
/// sysctls, and whether it can listen on port 80 and use its socket.
const PROGRAM: &str = r#"
import socket
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
ping.settimeout(5)
NAMES = ("core/somaxconn", "ipv4/tcp_keepalive_time", "ipv4/ip_local_port_range",
         "ipv4/ip_unprivileged_port_start", "ipv4/ping_group_range", "ipv4/conf/lo/forwarding")

def answer():
    for name in NAMES:
        with open("/proc/sys/net/" + name) as file:
            yield name + " " + " ".join(file.read().split())
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", 80))
        yield "listens"
    # An echo request; the kernel completes it.
    ping.sendto(b"\x08\0\0\0\0\0\0\x01" + b"hello", ("127.0.0.1", 0))
    yield "pings" if ping.recv(100).endswith(b"hello") else "does not ping"
"#;

#[test]
fn a_container_has_its_sysctls_again_before_it_runs() {
    if no_restore_here() {
        return;
    }
    let run = Run::new("sysctls").flags(&[
        "--cap-drop=NET_BIND_SERVICE",
        "--cap-drop=NET_RAW",
        "--sysctl=net.core.somaxconn=256",
        "--sysctl=net.ipv4.tcp_keepalive_time=77",
        "--sysctl=net.ipv4.ip_local_port_range=40000 40999",
        "--sysctl=net.ipv4.conf.lo.forwarding=1",
    ]);
    let program = command_line(PROGRAM);
    let container = run
        .image("work")
        .command(&program.each_ref().map(String::as_str))
        .start();
    let before = answer(container.out());
    for line in [
        "core/somaxconn 256",
        "ipv4/tcp_keepalive_time 77",
        "ipv4/ip_local_port_range 40000 40999",
        "ipv4/ip_unprivileged_port_start 0",
        "ipv4/conf/lo/forwarding 1",
        "listens",
        "pings",
    ] {
        assert!(before.iter().any(|found| found == line), "{before:?}");
    }
    for checkpoint in ["first", "second"] {
        container.checkpoint_and_exit(checkpoint);
        container.restore_and_run(checkpoint);
        assert_eq!(answer(container.out()), before);
    }
}
