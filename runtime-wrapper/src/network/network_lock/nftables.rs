//! The lock as a table of nftables.
//!
//! The table belongs to an nft process (`flags owner`, Linux 5.12): the kernel removes
//! it when that process exits, which it does at the end of its stdin. So nothing
//! remains if this process is killed.
//!
//! ```text
//! stdin   include "/proc/PID/fd/N"     the table, from a memfd, in one transaction
//!         list tables                  ──► stdout   table inet cedana-PID
//!         EOF                          ──► exit, and the table is removed
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Ends, Family};
use crate::host::procfs;
use crate::network::netns::within;
use cedana_contract::pid::Pid;

/// How long nft may take. It takes 50 ms for 4,000 connections.
const PATIENCE: Duration = Duration::from_secs(20);

/// A table in the kernel, and the process that owns it.
pub(super) struct Table {
    nft: Child,
}

impl Table {
    /// Adds a table for these connections.
    ///
    /// # Errors
    /// nft is missing, or it or the kernel refuses the table.
    pub(super) fn add(netns: &Path, connections: &[Ends]) -> io::Result<Self> {
        Self::start(netns, connections)
            .map_err(|error| io::Error::new(error.kind(), format!("nft: {error}")))
    }

    fn start(netns: &Path, connections: &[Ends]) -> io::Result<Self> {
        let name = format!("cedana-{}", Pid::own());
        let mut rules = File::from(memfd_create(c"nftables", MFdFlags::MFD_CLOEXEC)?);
        rules.write_all(ruleset(&name, connections).as_bytes())?;
        let (output, theirs) = io::pipe()?;
        let nft = within(netns, move || {
            Command::new("nft")
                .arg("--interactive")
                .stdin(Stdio::piped())
                .stdout(theirs.try_clone()?)
                .stderr(theirs)
                .spawn()
        })?;
        // Ends nft if one of the next steps fails.
        let mut table = Self { nft };
        let include = procfs::descriptor(&rules);
        let commands = format!("include \"{}\"\nlist tables\n", include.display());
        let stdin = table.nft.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(commands.as_bytes())?;
        confirm(output, &name)?;
        Ok(table)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.nft.stdin.take();
        // The kernel has removed the table when nft has exited.
        let _ = self.nft.wait();
    }
}

/// Waits until nft lists the table.
fn confirm(mut output: PipeReader, name: &str) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let wanted = format!("table inet {name}");
    let mut text = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 4096];
        let length = output.read(&mut chunk)?;
        text.extend(&chunk[..length]);
        let said = String::from_utf8_lossy(&text);
        if said.lines().any(|line| line == wanted) {
            return Ok(());
        }
        // Its errors name the file and the place, "...:2:1-5: Error: ...".
        let error = said.lines().find(|line| line.contains("rror"));
        if length == 0 || error.is_some() {
            let line = error.or(said.lines().next()).unwrap_or("it exited");
            return Err(io::Error::other(line.to_owned()));
        }
    }
}

/// The table: a set of connections for each address family, and the two rules that look
/// segments up in it.
fn ruleset(name: &str, connections: &[Ends]) -> String {
    let mut text = format!("table inet {name} {{\nflags owner\n");
    let (mut incoming, mut outgoing) = (String::new(), String::new());
    for family in Family::ALL {
        let (ip, set, length) = match family {
            Family::V4 => ("ip", "v4", "ip length".to_owned()),
            Family::V6 => ("ip6", "v6", "ip6 length".to_owned()),
        };
        let elements: Vec<String> = connections
            .iter()
            .filter(|ends| ends.family() == family)
            .map(|Ends { own, peer }| {
                let (own_port, peer_port) = (own.port(), peer.port());
                format!("{} . {peer_port} . {} . {own_port}", peer.ip(), own.ip())
            })
            .collect();
        if elements.is_empty() {
            continue;
        }
        let address = match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let _ = writeln!(
            text,
            "set {set} {{ type {address} . inet_service . {address} . inet_service; elements = {{ {} }} }}",
            elements.join(", ")
        );
        let _ = writeln!(
            incoming,
            "iifname != \"lo\" {ip} saddr . tcp sport . {ip} daddr . tcp dport @{set} drop"
        );
        // IPv6 counts the length without its header.
        let longest = match family {
            Family::V4 => family.probe(),
            Family::V6 => family.probe() - family.header(),
        };
        let _ = writeln!(
            outgoing,
            "oifname != \"lo\" {ip} daddr . tcp dport . {ip} saddr . tcp sport @{set} \
             tcp flags == ack {length} 0-{longest} quota until {} bytes drop",
            family.quota() * elements.len()
        );
    }
    let _ = writeln!(
        text,
        "chain in {{ type filter hook input priority -1;\n{incoming}}}\n\
         chain out {{ type filter hook output priority -1;\n{outgoing}}}\n}}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::ends;
    use super::*;

    #[test]
    fn a_table_has_a_set_for_each_family() {
        let text = ruleset(
            "cedana-1",
            &[
                ends("10.0.0.2:80", "10.0.0.9:5000"),
                ends("10.0.0.2:80", "10.0.0.9:5001"),
                ends("[fd00::2]:80", "[fd00::9]:5000"),
            ],
        );
        for part in [
            "10.0.0.9 . 5000 . 10.0.0.2 . 80, 10.0.0.9 . 5001 . 10.0.0.2 . 80",
            "fd00::9 . 5000 . fd00::2 . 80",
            "ip length 0-52 quota until 208 bytes",
            "ip6 length 0-32 quota until 144 bytes",
            "iifname != \"lo\" ip saddr . tcp sport . ip daddr . tcp dport @v4 drop",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_table_of_one_family_has_one_set() {
        let text = ruleset("cedana-1", &[ends("10.0.0.2:80", "10.0.0.9:5000")]);
        assert!(!text.contains("v6"), "{text}");
    }

    #[test]
    fn an_error_is_quoted() {
        let (output, mut nft) = io::pipe().expect("a pipe");
        nft.write_all(b"/proc/1/fd/3:2:1-5: Error: Could not process rule: Not supported\nx\n")
            .expect("write");
        let error = confirm(output, "cedana-1").expect_err("an error");
        assert!(error.to_string().contains("Not supported"), "{error}");
        let (output, nft) = io::pipe().expect("a pipe");
        drop(nft);
        assert!(confirm(output, "cedana-1").is_err());
    }
}
