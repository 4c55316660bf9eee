//! Times as text, all in UTC.

use time::OffsetDateTime;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::{Iso8601, Rfc3339};

/// Without separators, to the millisecond.
const COMPACT: EncodedConfig = {
    let three_digits = std::num::NonZeroU8::new(3);
    Config::DEFAULT
        .set_use_separators(false)
        .set_time_precision(TimePrecision::Second {
            decimal_digits: three_digits,
        })
        .encode()
};

/// RFC 3339 in whole seconds: `2026-01-02T03:04:05Z`.
pub fn rfc3339(at: OffsetDateTime) -> String {
    // Formatting fails only on years that have more than four digits.
    at.truncate_to_second().format(&Rfc3339).unwrap_or_default()
}

/// For names of files, sortable as text: `20260102T030405.678Z`.
pub fn compact(at: OffsetDateTime) -> String {
    at.truncate_to_millisecond()
        .format(&Iso8601::<COMPACT>)
        .unwrap_or_default()
}

/// For people: `2026-01-02 03:04:05 UTC`.
pub fn readable(at: OffsetDateTime) -> String {
    rfc3339(at).replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_cut_off() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_767_323_045_678_999_999);
        let at = at.expect("in range");
        assert_eq!(rfc3339(at), "2026-01-02T03:04:05Z");
        assert_eq!(compact(at), "20260102T030405.678Z");
        assert_eq!(readable(at), "2026-01-02 03:04:05 UTC");
    }
}
