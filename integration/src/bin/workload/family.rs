//! Threads and child processes of the workload.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Threads that each move a counter of their own.
pub(crate) struct Counters(Vec<Arc<AtomicU64>>);

impl Counters {
    pub(crate) fn start(threads: usize) -> Self {
        Self((0..threads).map(|_| crate::tick()).collect())
    }

    /// Fails unless every thread's counter moves.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let before: Vec<u64> = self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let still = (0..)
                .zip(&before)
                .zip(&self.0)
                .filter(|((_, before), now)| now.load(Ordering::Relaxed) <= **before)
                .map(|((i, _), _): ((usize, _), _)| i.to_string())
                .collect::<Vec<_>>();
            if still.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("threads {} stand still", still.join(",")));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A child process that reports through a pipe and may have children itself.
pub(crate) struct Child {
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Child {
    /// `generations` counts this child and those below it.
    pub(crate) fn spawn(generations: &str) -> io::Result<Self> {
        let left = generations
            .parse::<usize>()
            .map_err(io::Error::other)?
            .saturating_sub(1);
        let mut command = Command::new("/proc/self/exe");
        command.args(["--child", "--memory", "1", "--threads", "2"]);
        if left > 0 {
            command.args(["--children", &left.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(ask), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        let mut child = Self {
            ask,
            answer: BufReader::new(answer),
        };
        child.ask().map_err(io::Error::other)?;
        Ok(child)
    }

    /// The child's report on one line.
    pub(crate) fn ask(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.ask
            .write_all(b"report\n")
            .and_then(|()| self.answer.read_line(&mut line))
            .map_err(|e| e.to_string())?;
        match line.trim() {
            "" => Err("the child has exited".into()),
            answer => Ok(answer.to_owned()),
        }
    }
}

/// Runs the child: answers each request until the parent closes its end.
pub(crate) fn serve(mut report: impl FnMut() -> String) -> ! {
    for _ in io::stdin().lock().lines().map_while(Result::ok) {
        // Without the counter, which moves between two reports.
        let stable: Vec<_> = report()
            .lines()
            .filter(|l| !l.starts_with("counter="))
            .map(str::to_owned)
            .collect();
        let answer = format!("{}\n", stable.join(" "));
        if io::stdout().write_all(answer.as_bytes()).is_err() {
            break;
        }
    }
    exit(0)
}
