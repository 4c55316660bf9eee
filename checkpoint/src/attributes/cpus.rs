//! Sets of CPUs, as the kernel lists them: `0-3,8`.

use nix::sched::CpuSet;

/// Reads a list; `None` if it is none, or has a CPU that the set has no room for (1024).
pub(super) fn parse(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CpuSet::count() {
            return None;
        }
        for cpu in first..=last {
            set.set(cpu).ok()?;
        }
    }
    Some(set)
}

/// Lists a set.
pub(super) fn list(set: &CpuSet) -> String {
    let has = |cpu: usize| set.is_set(cpu).unwrap_or(false);
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in (0..CpuSet::count()).filter(|cpu| has(*cpu)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

/// Those that are in both.
pub(super) fn common(a: &CpuSet, b: &CpuSet) -> CpuSet {
    let mut set = CpuSet::new();
    let both = |cpu: &usize| [a, b].iter().all(|set| set.is_set(*cpu) == Ok(true));
    for cpu in (0..CpuSet::count()).filter(both) {
        // Below the count.
        let _ = set.set(cpu);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for text in ["", "0", "0-3", "1,3", "0-1,5-7,1023"] {
            let set = parse(text).expect("a list");
            assert_eq!(list(&set), text);
        }
        for text in ["1024", "0-18446744073709551615", "a", "-", "1--2", "-1"] {
            assert!(parse(text).is_none(), "{text}");
        }
        let set = common(
            &parse("0-5").expect("a list"),
            &parse("4-9").expect("a list"),
        );
        assert_eq!(list(&set), "4-5");
    }
}
