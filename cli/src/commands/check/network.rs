//! The programs that block a process's connections while it is checkpointed (CRIU) and
//! restored (cedana-runc).

use super::Machine;
use super::finding::Finding;
use super::{criu, program, search_path};

const CHECK: &str = "network-lock";

/// Asks both programs to check rules like those that are made. They make none.
pub(super) async fn lock(machine: &Machine) -> Finding {
    let find = |name| search_path::find(name, machine.is_root);
    let (iptables, nft) = (find("iptables-restore"), find("nft"));
    let finding = if iptables.is_none() && nft.is_none() {
        Finding::missing(
            CHECK,
            "neither iptables-restore nor nft is in PATH",
            "install iptables",
        )
    } else if machine.is_root {
        let iptables = match &iptables {
            Some(found) => {
                let table = "*filter\nCOMMIT\n";
                asked(program::run(found, &["--test", "-w"], table).await)
            }
            None => Err("it is not installed".to_owned()),
        };
        let nft = match &nft {
            Some(found) => {
                let table = "table inet cedana-check { chain in { type filter hook input priority -1; } }\n";
                asked(program::run(found, &["--check", "--file", "-"], table).await)
            }
            None => Err("it is not installed".to_owned()),
        };
        let criu_has_nft = match (&nft, find("criu")) {
            (Ok(()), Some(criu)) => criu::has_feature(&criu, "network_lock_nftables").await,
            _ => false,
        };
        judged(iptables, nft, criu_has_nft)
    } else {
        Finding::hidden(CHECK)
    };
    finding.needed_for("checkpoints and restores of what has TCP connections")
}

fn asked(said: Result<program::Said, String>) -> Result<(), String> {
    let said = said?;
    match said.success {
        true => Ok(()),
        false => Err(said.reason().to_owned()),
    }
}

/// CRIU blocks by iptables, or by nftables where its builder has chosen that
/// (`NETWORK_LOCK_DEFAULT`); no program can ask it which. cedana-runc takes either.
fn judged(iptables: Result<(), String>, nft: Result<(), String>, criu_has_nft: bool) -> Finding {
    match (iptables, nft) {
        (Ok(()), Ok(())) => Finding::fit(CHECK, "by iptables or nftables"),
        (Ok(()), Err(_)) => Finding::fit(CHECK, "by iptables"),
        (Err(iptables), Ok(())) if criu_has_nft => Finding::lesser(
            CHECK,
            format!("by nftables alone, which not every CRIU takes; iptables: {iptables}"),
            "install iptables if a checkpoint says that CRIU can't block connections",
        ),
        (Err(iptables), Ok(())) => Finding::missing(
            CHECK,
            format!("CRIU can't use nftables here; iptables: {iptables}"),
            "install iptables",
        ),
        (Err(iptables), Err(nft)) => Finding::missing(
            CHECK,
            format!("iptables: {iptables}; nftables: {nft}"),
            "install iptables, and use a kernel with its filter tables",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn iptables_alone_is_enough_and_nftables_may_be() {
        let no = || Err("x".to_owned());
        let verdict = |iptables, nft, criu| judged(iptables, nft, criu).verdict;
        assert_eq!(verdict(Ok(()), no(), false), Verdict::Fit);
        assert_eq!(verdict(no(), Ok(()), true), Verdict::Lesser);
        assert_eq!(verdict(no(), Ok(()), false), Verdict::Missing);
        assert_eq!(verdict(no(), no(), true), Verdict::Missing);
    }
}
