//! Metrics of a lazy restore.

use std::time::Duration;

/// Number of buckets per doubling. Values have an error of about 3 percent.
const FINE: u32 = 32;

/// A histogram of times from a microsecond to hours, in a few kilobytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    counts: Vec<u64>,
    number: u64,
    sum: Duration,
}

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        let bucket = bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.number += 1;
        self.sum = self.sum.saturating_add(time);
    }

    fn mean(&self) -> Duration {
        u32::try_from(self.number)
            .ok()
            .and_then(|number| self.sum.checked_div(number))
            .unwrap_or_default()
    }

    /// Returns a percentile: the time that this percentage of the values does not exceed.
    fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.number * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Duration::from_micros(upper(bucket));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a value: exact up to [`FINE`], then [`FINE`] buckets per doubling.
fn bucket(micros: u64) -> usize {
    if micros < u64::from(FINE) {
        return micros as usize;
    }
    let doublings = micros.ilog2() - FINE.ilog2();
    let step = (micros >> doublings) as usize - FINE as usize;
    FINE as usize * (doublings as usize + 1) + step
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let fine = FINE as usize;
    match bucket {
        ..32 => bucket as u64,
        _ => {
            let doublings = (bucket / fine - 1) as u32;
            let first = (fine + bucket % fine) as u64;
            ((first + 1) << doublings) - 1
        }
    }
}

/// The metrics of a lazy restore so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Bytes of lazy memory.
    pub lazy_bytes: u64,
    /// Number of page faults.
    pub faults: u64,
    /// Mean time of a fault, from the source's reading of the event to its answer.
    pub mean_fault: Duration,
    /// The 99th percentile of these times.
    pub p99_fault: Duration,
    /// The longest of these times.
    pub max_fault: Duration,
    /// Bytes that were given because of faults, neighbours included.
    pub faulted_bytes: u64,
    /// Bytes that were prefetched.
    pub prefetched_bytes: u64,
    /// The part of these bytes that came first because earlier restores missed them
    /// ([`super::Touches`]).
    pub expected_bytes: u64,
}

impl Times {
    pub(super) fn summary(&self) -> Metrics {
        Metrics {
            lazy_bytes: 0,
            faults: self.number,
            mean_fault: self.mean(),
            p99_fault: self.percentile(99),
            max_fault: self.percentile(100),
            faulted_bytes: 0,
            prefetched_bytes: 0,
            expected_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_in_order_and_close(micros in 0..u64::MAX / 2) {
            let bucket = bucket(micros);
            let top = upper(bucket);
            prop_assert!(top >= micros && top - micros <= micros / 31 + 1);
            prop_assert!(bucket == 0 || upper(bucket - 1) < micros);
        }
    }

    #[test]
    fn percentiles() {
        let mut times = Times::default();
        assert_eq!(times.summary().p99_fault, Duration::ZERO);
        for micros in 1..=1000 {
            times.add(Duration::from_micros(micros));
        }
        let metrics = times.summary();
        assert_eq!(metrics.faults, 1000);
        assert_eq!(metrics.mean_fault, Duration::from_nanos(500_500));
        assert!((990..1024).contains(&metrics.p99_fault.as_micros()));
        assert!(metrics.max_fault >= Duration::from_micros(1000));
    }
}
