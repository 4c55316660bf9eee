//! Checkpoints and restores real programs while their clients stay connected.
//!
//! Each story starts a program of `integration/apps` in a container, connects a
//! client to it from outside, and then runs rounds (`CEDANA_ROUNDS`, 10):
//!
//! 1. The client writes. A checkpoint leaves the container running: the client's
//!    connection stays open, and the program's state is unchanged.
//! 2. The client writes. After another checkpoint the container loses its network
//!    and is killed, as when its node fails. It is restored from the image, under
//!    the same address: the same connection stays open, state and files are
//!    unchanged, and the client can write again.
//!
//! The second checkpoint is needed, since a connection that continued after the first
//! has sequence numbers that the first lacks.
//!
//! The programs run under containerd's default seccomp profile, or at least without
//! io_uring: node and MariaDB would use it, and CRIU can't dump it. Docker's and
//! Kubernetes' profiles deny it as well.
//!
//! `scripts/test --apps` provides the programs' image and folder.
//! `CEDANA_RESTORE_MODE=eager` restores without lazy memory, for comparison. Each
//! story prints how many restores were lazy. Those of small programs never are, nor
//! those of processes that share memory by fork (PostgreSQL, gunicorn).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use cedana_integration::{
    Container, Containerd, Image, Run, STOCK, command, eventually_within, testbed, unique,
};

/// The image that `testbed --apps` imports.
const IMAGE: &str = "docker.io/library/apps:latest";
/// The mount of the programs' folder into a container.
const APPS: &str = "type=bind,src=/apps,dst=/apps,options=rbind:ro";
/// The container's address, and the machine's in the same subnet.
const SERVER: &str = "10.99.0.2";
const CLIENT: &str = "10.99.0.1";
/// The time for a build or a database's start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The number of attempts of a checkpoint.
const ATTEMPTS: usize = 5;

/// Reasons for a refusal that may pass. CRIU can't stop a process that waits for its
/// vfork's exec, or whose threads are about to exit. CRIU can't dump unread messages
/// of a netlink socket. runc can't freeze a cgroup in which processes start too fast.
/// The client has to try again: it has copied the writable layer before, so the shim
/// can't let the container run between two attempts.
const MOVING: [&str; 6] = [
    "is within vfork",
    "could not be frozen in time",
    "has not accepted",
    "data that it has not read",
    "messages with credentials",
    "unable to freeze",
];

fn rounds() -> u32 {
    match std::env::var("CEDANA_ROUNDS") {
        Ok(number) => number
            .parse()
            .unwrap_or_else(|_| panic!("CEDANA_ROUNDS: {number} is not a number")),
        Err(_) => 10,
    }
}

/// containerd 2's default profile denies io_uring, containerd 1.7's doesn't yet.
fn seccomp() -> &'static [&'static str] {
    match testbed().as_str() {
        "trixie" => &["--seccomp", "--seccomp-profile", "/apps/seccomp.json"],
        _ => &["--seccomp"],
    }
}

/// The container's network: a namespace by path, as with CNI and Docker.
struct Network(String);

impl Network {
    #[track_caller]
    fn new() -> Self {
        let network = Self(unique("apps"));
        network.connect();
        network
    }

    fn path(&self) -> String {
        format!("network:/run/netns/{}", self.0)
    }

    #[track_caller]
    fn connect(&self) {
        let name = self.0.as_str();
        let lines = [
            format!("netns add {name}"),
            format!("-n {name} link set lo up"),
            format!("link add apps0 type veth peer name eth0 netns {name}"),
            format!("address add {CLIENT}/24 dev apps0"),
            format!("-n {name} address add {SERVER}/24 dev eth0"),
            format!("-n {name} link set eth0 up"),
            "link set apps0 up".to_owned(),
        ];
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            command("ip", &words).ok();
        }
    }

    /// Cuts the container off from its peers. Otherwise the kernel would send FIN or RST
    /// for the killed processes, which ends the connections.
    #[track_caller]
    fn cut(&self) {
        command("ip", &["link", "delete", "apps0"]).ok();
    }

    /// Replaces it by a new namespace with the same name and address.
    #[track_caller]
    fn renew(&self) {
        command("ip", &["netns", "delete", &self.0]).ok();
        self.connect();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        command("ip", &["link", "delete", "apps0"]);
        command("ip", &["netns", "delete", &self.0]);
    }
}

/// A client in another container, with the machine's network. It connects once.
struct Client {
    _container: Container,
    process: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Client {
    #[track_caller]
    fn of(run: &Run, script: &str) -> Self {
        let run = run
            .beside("client")
            .under(STOCK)
            .flags(&["--net-host", "--mount", APPS])
            .command(&["python3", script, "client", SERVER]);
        let (container, mut command) = run.spawnable(&["--rm"]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (Some(orders), Some(said)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both are piped")
        };
        let (sender, answers) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(said).lines().map_while(Result::ok);
            for line in lines {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let client = Self {
            _container: container,
            process,
            orders,
            answers,
        };
        assert_eq!(client.answer().as_deref(), Ok("ready"));
        client
    }

    /// The client's next line, or an error if it exits before.
    fn answer(&self) -> Result<String, String> {
        self.answers
            .recv_timeout(PATIENCE)
            .map_err(|why| why.to_string())
    }

    fn ask(&mut self, order: &str) -> Result<String, String> {
        writeln!(self.orders, "{order}").map_err(|error| error.to_string())?;
        self.answer()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of `integration/apps`.
#[derive(Clone, Copy)]
struct App {
    name: &'static str,
    flags: &'static [&'static str],
}

/// A running program.
struct Running {
    app: App,
    network: Network,
    container: Container,
    /// The ids of the restored containers.
    restored: Vec<String>,
    /// The number of checkpoints that were refused for a reason that passes.
    refused: usize,
}

impl App {
    const fn named(name: &'static str) -> Self {
        Self { name, flags: &[] }
    }

    fn script(self) -> String {
        format!("/apps/{}.py", self.name)
    }

    #[track_caller]
    fn run(self) -> (Run, Running) {
        let network = Network::new();
        let run = Run::new(self.name)
            .image(IMAGE)
            .flags(&["--null-io", "--with-ns", &network.path()])
            .flags(&["--mount", APPS])
            .flags(seccomp())
            .flags(self.flags)
            .flags(
                &match std::env::var("CEDANA_RESTORE_MODE") {
                    Ok(mode) => vec![
                        "--annotation".to_owned(),
                        format!("io.cedana.restore.mode={mode}"),
                    ],
                    Err(_) => vec![],
                }
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            )
            .command(&["python3", &self.script(), "start"]);
        let running = Running {
            app: self,
            network,
            container: run.clone().detach(),
            restored: vec![],
            refused: 0,
        };
        (run, running)
    }

    /// Runs the rounds.
    #[track_caller]
    fn run_rounds(self) {
        let _alone = Containerd::alone();
        let (run, mut app) = self.run();
        let mut client = Client::of(&run, &self.script());
        let mut count = 0;
        for round in 1..=rounds() {
            let mut ask = |app: &Running, order: &str| {
                client.ask(order).unwrap_or_else(|why| {
                    panic!(
                        "round {round}: {order:?}: the client: {why}\n{}",
                        app.status_and_log()
                    )
                })
            };
            let mut write = |app: &Running, ask: &mut dyn FnMut(&Running, &str) -> String| {
                assert_eq!(ask(app, &format!("write {count}")), "ok");
                count += 1;
            };

            write(&app, &mut ask);
            let before = ask(&app, "state");
            drop(app.checkpoint());
            assert_eq!(
                ask(&app, "state"),
                before,
                "round {round}: after a checkpoint"
            );

            write(&app, &mut ask);
            let before = ask(&app, "state");
            app.fail_and_restore();
            assert_eq!(ask(&app, "state"), before, "round {round}: after a restore");
            write(&app, &mut ask);
            assert_ne!(
                ask(&app, "state"),
                before,
                "round {round}: a write does not change the state"
            );
            app.check(count);
        }
        print_restores(self.name, &app.restored, app.refused);
    }
}

impl Running {
    /// Takes a checkpoint, and tries again if it is refused for a reason that passes.
    #[track_caller]
    fn checkpoint(&mut self) -> Image {
        for _ in 1..ATTEMPTS {
            match self.container.try_checkpoint(&["--rw"]) {
                Ok(image) => return image,
                Err(refused) if MOVING.iter().any(|why| refused.stderr.contains(why)) => {
                    println!("{}: refused: {}", self.app.name, refused.stderr.trim());
                    self.refused += 1;
                }
                Err(refused) => panic!("{refused}\n{}", self.status_and_log()),
            }
        }
        self.container.checkpoint(&["--rw"])
    }

    /// Takes a checkpoint, kills the container with its network, and restores it.
    #[track_caller]
    fn fail_and_restore(&mut self) {
        let image = self.checkpoint();
        self.network.cut();
        self.container.end_task();
        self.network.renew();
        let restored = self.container.restore(&image, &["--rw"]);
        self.restored.push(restored.id().to_owned());
        self.container = restored;
    }

    /// Asserts that its files are intact.
    #[track_caller]
    fn check(&self, count: u32) {
        let script = self.app.script();
        let answer = self
            .container
            .exec(&["python3", &script, "check", &count.to_string()]);
        assert_eq!(answer.code, 0, "{answer}\n{}", self.status_and_log());
    }

    /// Its status and the end of its log, for a failure's message.
    fn status_and_log(&self) -> String {
        let log = self.container.exec(&["tail", "-n", "30", "/data/log"]);
        format!("task: {:?}\nlog: {log}", self.container.status())
    }
}

/// Prints the numbers of restores, of lazy restores and of refused checkpoints.
#[track_caller]
fn print_restores(name: &str, restored: &[String], refused: usize) {
    // A restore has its record when its memory is complete.
    eventually_within(PATIENCE, "memory is complete", || {
        let open = std::fs::read_dir("/run/cedana/lazy").map_or(0, Iterator::count);
        match open {
            0 => Ok(()),
            open => Err(format!("{open} restores are not complete")),
        }
    });
    let records = command("cedana-runc", &["inspect", "--restores", "--json"]).ok();
    let is_lazy = |id: &&String| records.stdout.contains(id.as_str());
    let lazy = restored.iter().filter(is_lazy).count();
    println!(
        "{name}: {} restores, {lazy} of them lazy; {refused} checkpoints refused and tried again",
        restored.len()
    );
}

macro_rules! apps {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            App::named(stringify!($name)).run_rounds();
        }
    )*};
}

apps! {
    chromium
    go
    gunicorn
    haproxy
    java
    mariadb
    nginx
    node
    postgres
    rabbitmq
    redis
    sshd
}

/// In a volume; see [`sqlite_in_the_writable_layer`].
#[test]
fn sqlite() {
    let flags = &["--env", "SQLITE_FILE=/out/db"];
    App {
        name: "sqlite",
        flags,
    }
    .run_rounds();
}

#[test]
#[ignore = "containerd unpacks the writable layer anew for a restore, so files have other inode numbers: SQLite then refuses to write (SQLITE_READONLY_DBMOVED)"]
fn sqlite_in_the_writable_layer() {
    App::named("sqlite").run_rounds();
}

/// The server maps the log's index and holds locks on it, and `check` opens the
/// database at the same time.
#[test]
fn sqlite_with_a_write_ahead_log() {
    let flags = &[
        "--env",
        "SQLITE_FILE=/out/db",
        "--env",
        "SQLITE_JOURNAL=wal",
    ];
    App {
        name: "sqlite",
        flags,
    }
    .run_rounds();
}

/// Compares the result of the build, since its intermediate states differ each time.
#[test]
fn make() {
    let _alone = Containerd::alone();
    let (mut restored, mut refused) = (vec![], 0);
    for round in 1..=rounds() {
        let (_, mut app) = App::named("make").run();
        app.has_built(10, round);
        drop(app.checkpoint());
        app.has_built(25, round);
        app.fail_and_restore();
        eventually_within(PATIENCE, "the build is complete", || {
            let end = app.container.exec(&["cat", "/data/end"]);
            match end.stdout.trim() {
                "" => Err(end.to_string()),
                said => {
                    assert_eq!(said, "built", "round {round}: {}", app.status_and_log());
                    Ok(())
                }
            }
        });
        app.check(0);
        restored.append(&mut app.restored);
        refused += app.refused;
    }
    print_restores("make", &restored, refused);
}

impl Running {
    /// Waits until the build has made `objects` object files; it must not be complete.
    #[track_caller]
    fn has_built(&self, objects: usize, round: u32) {
        let list = [
            "sh",
            "-c",
            "ls /data/build | grep -c '[.]o$'; ls /data/end 2>&-",
        ];
        let said = eventually_within(PATIENCE, "the build goes on", || {
            let said = self.container.exec(&list).stdout;
            let count = said.lines().next().and_then(|line| line.parse().ok());
            match count >= Some(objects) {
                true => Ok(said),
                false => Err(format!("{said:?} {}", self.status_and_log())),
            }
        });
        assert!(
            !said.contains("/data/end"),
            "round {round}: the build was complete too early: {said}"
        );
    }
}
