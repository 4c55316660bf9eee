//! A job of the command `cedana` that answers: each SIGUSR1 makes it write a line with a
//! number, which is one more each time, and the digest of its memory.

use crate::daemon::Daemon;

/// Its program, in Python: memory of `SIZE` MiB, 64 by default, and four threads, all of
/// which have to go on before it answers.
const PROGRAM: &str = r#"
import hashlib, os, signal, threading, time
size = int(os.environ.get('SIZE', 64)) << 20
data = bytearray(os.urandom(1 << 20) * (size >> 20))
for at in range(0, size, 4096): data[at:at + 8] = at.to_bytes(8, 'little')
beats = [0] * 4
def beat(n):
    while True:
        beats[n] += 1
        time.sleep(0.001)
for n in range(4): threading.Thread(target=beat, args=[n], daemon=True).start()
asked = 0
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('ready', hashlib.sha256(data).hexdigest(), flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    asked += 1
    before = list(beats)
    while any(a == b for a, b in zip(before, beats)): time.sleep(0.001)
    print('answer', asked, hashlib.sha256(data).hexdigest(), flush=True)
"#;

/// A job with that program.
pub struct Asked<'a> {
    daemon: &'a Daemon,
    id: String,
    digest: String,
    answers: usize,
}

impl<'a> Asked<'a> {
    /// Starts it with these options of `cedana exec`.
    #[track_caller]
    pub fn start(daemon: &'a Daemon, id: &str, options: &[&str]) -> Self {
        let words = [&["exec"], options, &[id, "--", "python3", "-c", PROGRAM]].concat();
        daemon.ok(&words);
        daemon.writes(id, "ready ");
        let said = daemon.ok(&["logs", id]);
        let digest = said.split_whitespace().last().unwrap_or_default();
        Self {
            daemon,
            id: id.to_owned(),
            digest: digest.to_owned(),
            answers: 0,
        }
    }

    /// Asks it, and checks the answer: it is the same program as before.
    #[track_caller]
    pub fn answers(&mut self) {
        self.answers += 1;
        self.daemon.ok(&["kill", "-s", "USR1", &self.id]);
        let answer = format!("answer {} {}", self.answers, self.digest);
        self.daemon.writes(&self.id, &answer);
    }

    /// The same job under another ID: a copy that was restored from a checkpoint of now.
    #[track_caller]
    pub fn copy(&self, id: &str) -> Self {
        Self {
            daemon: self.daemon,
            id: id.to_owned(),
            digest: self.digest.clone(),
            answers: self.answers,
        }
    }

    /// The same on another daemon.
    #[track_caller]
    pub fn copy_on<'b>(&self, daemon: &'b Daemon, id: &str) -> Asked<'b> {
        Asked {
            daemon,
            id: id.to_owned(),
            digest: self.digest.clone(),
            answers: self.answers,
        }
    }
}
