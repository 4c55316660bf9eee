//! `--cedana-copy-output`: the reader of a restored container's output.
//!
//! CRIU can dump a container again if its output is a pipe, not if it is a file outside
//! of its mounts. So a pipe leads to this process, which writes to the file, and exits
//! with the last writer.

use std::io::{self, Read, Write};
use std::process::ExitCode;

/// Copies stdin to stdout.
pub(crate) fn run() -> ExitCode {
    copy(io::stdin().lock(), &mut io::stdout().lock());
    ExitCode::SUCCESS
}

fn copy(mut from: impl Read, to: &mut impl Write) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            // A full disk must not block the container.
            Ok(read) => drop(to.write_all(&buffer[..read]).and_then(|()| to.flush())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_is_read_even_if_nothing_can_be_written() {
        let mut written = Vec::new();
        copy(&b"output"[..], &mut written);
        assert_eq!(written, b"output");
        let mut full = Full(0);
        copy(io::repeat(1).take(200 << 10), &mut full);
        assert_eq!(full.0, 4);
    }
}
