//! A program in Python, for the image `work`, that answers what it is like: it has 16 MiB of
//! memory and a thread, and answers whenever the file `ask` is in the container's /out.

use std::fs;
use std::path::Path;

use crate::wait::eventually;

/// Calls the generator `answer` of the program, whose lines are the answer.
const SERVE: &str = r#"
import os, threading, time
held = os.urandom(16 << 20)
beginning = hash(held)
threading.Thread(target=lambda: [time.sleep(0.1) for _ in iter(int, 1)], daemon=True).start()
while True:
    if os.path.exists("/out/ask"):
        os.unlink("/out/ask")
        try:
            lines = list(answer())
        except Exception as error:
            lines = ["failed: %r" % error]
        if hash(held) != beginning:
            lines.append("its memory has changed")
        with open("/out/new", "w") as file:
            file.write("\n".join(lines))
        os.rename("/out/new", "/out/answer")
    time.sleep(0.02)
"#;

/// The command line of a program, which defines `answer`.
#[must_use]
pub fn command_line(program: &str) -> [String; 3] {
    ["python3", "-c", &format!("{program}\n{SERVE}")].map(str::to_owned)
}

/// Asks the program whose /out is this directory.
#[track_caller]
#[must_use]
pub fn answer(out: &Path) -> Vec<String> {
    let answer = out.join("answer");
    let _ = fs::remove_file(&answer);
    fs::write(out.join("ask"), "").expect("asked");
    let text = eventually("the program answers", || {
        fs::read_to_string(&answer).map_err(|error| error.to_string())
    });
    text.lines().map(str::to_owned).collect()
}
