//! Keeping restored connections from speaking first.
//!
//! When CRIU hands a connection over to the kernel, the kernel sends its peer a
//! window probe, an acknowledgement without data (`tcp_send_window_probe`, by
//! TCP_REPAIR_OFF). Where addresses are translated on the way, the translation
//! was often forgotten with the old container (Docker deletes it): the probe
//! reaches the peer untranslated, the peer knows of no such connection and
//! answers with a reset, and the connection is dead. Once the peer speaks first,
//! translation begins anew and the connection goes on.
//!
//! So probes are dropped in the container's network namespace while it is
//! restored. CRIU's own lock of the network does not help: it ends before. The
//! rule drops bare acknowledgements only, no more bytes of them than the
//! connections' probes have, and so is without effect when it should stay,
//! because we are killed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cedana_checkpoint::image::Inet;

use crate::netns::within;

/// Drops probes until it is dropped itself.
pub(super) struct Hush {
    netns: PathBuf,
    rules: Vec<(&'static str, Vec<String>)>,
}

impl Hush {
    /// Begins, for connections that are about to be restored in a network
    /// namespace.
    ///
    /// # Errors
    /// iptables is missing or refuses: connections through translated addresses
    /// may be lost.
    pub(super) fn begin(netns: &Path, connections: &[Inet]) -> io::Result<Self> {
        let mut hush = Self {
            netns: netns.to_owned(),
            rules: Vec::new(),
        };
        let outside = |inet: &&Inet| !inet.source.ip().to_canonical().is_loopback();
        let is_v4 = |inet: &&Inet| inet.source.ip().to_canonical().is_ipv4();
        let v4 = connections.iter().filter(outside).filter(is_v4).count();
        let v6 = connections.iter().filter(outside).count() - v4;
        for (program, count, header) in [("iptables", v4, 20), ("ip6tables", v6, 40)] {
            if count > 0 {
                let rule = rule(count, header);
                call(netns, program, "-I", &rule)?;
                hush.rules.push((program, rule));
            }
        }
        Ok(hush)
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        for (program, rule) in &self.rules {
            // By now it has no effect any more.
            let _ = call(&self.netns, program, "-D", rule);
        }
    }
}

/// The rule for so many connections over an IP with such a header.
fn rule(connections: usize, header: usize) -> Vec<String> {
    // With the longest options that such a segment has, a timestamp.
    let probe = header + 20 + 12;
    format!(
        "OUTPUT ! -o lo -p tcp --tcp-flags ALL ACK -m length --length 0:{probe} \
         -m quota --quota {} -j DROP",
        // The kernel may send a second one.
        2 * connections * probe
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect()
}

fn call(
    netns: &Path,
    program: &'static str,
    verb: &'static str,
    rule: &[String],
) -> io::Result<()> {
    let rule = rule.to_vec();
    let output = within(netns, move || {
        Command::new(program)
            .args(["-w", verb])
            .args(rule)
            .stdin(Stdio::null())
            .output()
    })
    .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_bounded_by_its_quota() {
        let rule = rule(3, 20).join(" ");
        assert!(rule.contains("--length 0:52 "), "{rule}");
        assert!(rule.contains("--quota 312 "), "{rule}");
    }
}
