//! The lock as two chains of iptables, for each address family.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Ends, Family};
use crate::network::netns::within;
use cedana_contract::pid::Pid;

/// The built-in chains, and the chains that they are made to call.
struct Names([(&'static str, String); 2]);

/// The chains of the address families that have connections.
pub(super) struct Chains {
    netns: PathBuf,
    families: Vec<Family>,
}

impl Chains {
    /// Adds the chains for these connections.
    ///
    /// # Errors
    /// iptables is missing or fails.
    pub(super) fn add(netns: &Path, connections: &[Ends]) -> io::Result<Self> {
        let mut chains = Self {
            netns: netns.to_owned(),
            families: Vec::new(),
        };
        for family in Family::ALL {
            let of_family: Vec<Ends> = connections
                .iter()
                .filter(|ends| ends.family() == family)
                .copied()
                .collect();
            if !of_family.is_empty() {
                family.restore(netns, &Names::own().added(&of_family))?;
                chains.families.push(family);
            }
        }
        Ok(chains)
    }
}

impl Drop for Chains {
    fn drop(&mut self) {
        for family in &self.families {
            // An error means that the namespace, with its chains, was removed.
            let _ = family.restore(&self.netns, &Names::own().removed());
        }
    }
}

impl Names {
    fn own() -> Self {
        let pid = Pid::own();
        Self([
            ("INPUT", format!("CEDANA-IN-{pid}")),
            ("OUTPUT", format!("CEDANA-OUT-{pid}")),
        ])
    }

    /// The input of iptables-restore that adds both chains.
    fn added(&self, connections: &[Ends]) -> String {
        let Self([(_, incoming), (_, outgoing)]) = self;
        let mut table = String::from("*filter\n");
        for (_, chain) in &self.0 {
            let _ = writeln!(table, ":{chain} - [0:0]");
        }
        for ends in connections {
            let [to_us, from_us] = rules(*ends);
            let _ = writeln!(table, "-A {incoming} {to_us}\n-A {outgoing} {from_us}");
        }
        for (built_in, chain) in &self.0 {
            let _ = writeln!(table, "-I {built_in} -j {chain}");
        }
        table + "COMMIT\n"
    }

    /// The input of iptables-restore that removes them.
    fn removed(&self) -> String {
        let mut table = String::from("*filter\n");
        for (built_in, chain) in &self.0 {
            let _ = writeln!(table, "-D {built_in} -j {chain}\n-F {chain}\n-X {chain}");
        }
        table + "COMMIT\n"
    }
}

impl Family {
    fn restore(self, netns: &Path, table: &str) -> io::Result<()> {
        let program = match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        };
        let table = table.to_owned();
        let output = within(netns, move || {
            let mut child = Command::new(program)
                .args(["-w", "--noflush"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // If it ends early, its stderr has the reason.
            let _ = child
                .stdin
                .take()
                .map(|mut stdin| stdin.write_all(table.as_bytes()));
            child.wait_with_output()
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
}

/// The rules for one connection: its segments to us, and our probes.
fn rules(Ends { own, peer }: Ends) -> [String; 2] {
    let family = Ends { own, peer }.family();
    let (probe, quota) = (family.probe(), family.quota());
    let between = |from: std::net::SocketAddr, to: std::net::SocketAddr| {
        format!(
            "-p tcp -s {} --sport {} -d {} --dport {}",
            from.ip(),
            from.port(),
            to.ip(),
            to.port()
        )
    };
    [
        format!("! -i lo {} -j DROP", between(peer, own)),
        format!(
            "! -o lo {} --tcp-flags ALL ACK -m length --length 0:{probe} \
             -m quota --quota {quota} -j DROP",
            between(own, peer)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::ends;
    use super::*;

    #[test]
    fn rules_name_one_connection_and_a_probe() {
        let [incoming, outgoing] = rules(ends("10.0.0.2:80", "10.0.0.9:5000"));
        assert_eq!(
            incoming,
            "! -i lo -p tcp -s 10.0.0.9 --sport 5000 -d 10.0.0.2 --dport 80 -j DROP"
        );
        assert!(
            outgoing.contains("-s 10.0.0.2 --sport 80 -d 10.0.0.9 --dport 5000 "),
            "{outgoing}"
        );
        assert!(outgoing.contains("--length 0:52 "), "{outgoing}");
        assert!(outgoing.contains("--quota 104 "), "{outgoing}");
        let [_, outgoing] = rules(ends("[fd00::2]:80", "[fd00::9]:5000"));
        assert!(outgoing.contains("--length 0:72 "), "{outgoing}");
    }

    #[test]
    fn chains_are_removed_without_their_rules() {
        let names = Names([("INPUT", "A".into()), ("OUTPUT", "B".into())]);
        assert_eq!(
            names.removed(),
            "*filter\n-D INPUT -j A\n-F A\n-X A\n-D OUTPUT -j B\n-F B\n-X B\nCOMMIT\n"
        );
        let added = names.added(&[ends("10.0.0.2:80", "10.0.0.9:5000")]);
        assert!(
            added.starts_with("*filter\n:A - [0:0]\n:B - [0:0]\n-A A ! -i lo "),
            "{added}"
        );
        assert!(
            added.ends_with("-I INPUT -j A\n-I OUTPUT -j B\nCOMMIT\n"),
            "{added}"
        );
    }
}
