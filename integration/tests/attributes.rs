//! Attributes that a program sets for itself and CRIU leaves out.

use cedana_integration::Run;
use cedana_integration::answering::{answer, command_line};

/// Sets attributes of its process, of a thread, and of a child, and answers with them. The
/// child is a session's leader.
const PROGRAM: &str = r#"
import ctypes, os, socket, threading, time
libc = ctypes.CDLL(None, use_errno=True)
IOPRIO_SET, IOPRIO_GET = {"x86_64": (251, 252), "aarch64": (30, 31)}[os.uname().machine]
SET_TIMERSLACK, GET_TIMERSLACK = 29, 30
cpus = sorted(os.sched_getaffinity(0))
ids = []

def child():
    os.setsid()
    open("/proc/self/autogroup", "w").write("3")
    while True:
        time.sleep(1)

def other():
    ids.append(threading.get_native_id())
    os.sched_setaffinity(0, cpus[:1])
    libc.prctl(SET_TIMERSLACK, 333333)
    libc.syscall(IOPRIO_SET, 1, 0, 3 << 13)
    while True:
        time.sleep(1)

leader = os.fork() or child()
threading.Thread(target=other, daemon=True).start()
while not ids:
    time.sleep(0.01)
os.sched_setaffinity(0, cpus[-1:])
libc.prctl(SET_TIMERSLACK, 777777)
libc.syscall(IOPRIO_SET, 1, 0, 2 << 13 | 6)
open("/proc/self/coredump_filter", "w").write("0x7")


# A listening socket, one that is connected to it, and one of UDP.
listener = socket.create_server(("127.0.0.1", 7070))
client = socket.create_connection(("127.0.0.1", 7070))
server, _ = listener.accept()
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
SET = [
    (listener, socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 15),
    (listener, socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 9),
    (client, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7654),
    (client, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16384),
    (client, socket.IPPROTO_IP, 21, 7),  # IP_MINTTL
    (server, socket.IPPROTO_TCP, socket.TCP_SYNCNT, 3),
    (server, socket.IPPROTO_TCP, socket.TCP_LINGER2, 11),
    (datagrams, socket.SOL_SOCKET, 35, 1),  # SO_TIMESTAMPNS
    (datagrams, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 4),
    (datagrams, socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1),
    (datagrams, socket.IPPROTO_IP, 10, 2),  # IP_MTU_DISCOVER
]
for of, level, option, value in SET:
    of.setsockopt(level, option, value)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")

def answer():
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    yield "options %s" % [of.getsockopt(*option) for of, *option, _ in SET]
    yield "congestion control %s" % client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).strip(b"\0")
    for thread in [os.getpid()] + ids:
        yield "affinity %s" % os.sched_getaffinity(thread)
        yield "I/O priority %s" % libc.syscall(IOPRIO_GET, 1, thread)
        # Under a thread's ID, too (proc(5)).
        yield "slack " + open("/proc/%d/timerslack_ns" % thread).read().strip()
    yield "filter " + open("/proc/self/coredump_filter").read().strip()
    yield "autogroup" + open("/proc/%d/autogroup" % leader).read().split("nice")[1]
"#;

/// The lines that every answer has.
const LINES: [&str; 7] = [
    "options [15, 9, 7654, 16384, 7, 3, 11, 1, 4, 1, 2]",
    "congestion control b'reno'",
    "I/O priority 16390",
    "slack 777777",
    "I/O priority 24576",
    "slack 333333",
    "filter 00000007",
];

#[test]
fn a_container_has_its_attributes_again() {
    let program = command_line(PROGRAM);
    let container = Run::new("attributes")
        .image("docker.io/library/work:latest")
        // The image's Python has no ctypes.
        .flags(&[
            "--cap-add=CAP_SYS_NICE",
            "--mount=type=bind,src=/usr,dst=/usr,options=bind:ro",
        ])
        .command(&program.each_ref().map(String::as_str))
        .detach();
    let before = answer(container.out());
    for line in LINES {
        assert!(before.iter().any(|found| found == line), "{before:?}");
    }
    assert_eq!(before.last().map(String::as_str), Some("autogroup 3"));
    // One that goes on, and its image, restored twice.
    let image = container.checkpoint(&[]);
    assert_eq!(answer(container.out()), before);
    container.end_task();
    for _ in 0..2 {
        let restored = container.restore(&image, &[]);
        assert_eq!(answer(restored.out()), before);
    }
}
