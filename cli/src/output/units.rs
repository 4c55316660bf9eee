//! Sizes and times, for people.

use cedana_api::time::now_micros;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A size with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// A duration of microseconds, in two or three digits.
pub(crate) fn duration(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// How long ago that was, in the largest unit.
pub(crate) fn ago(micros: i64) -> String {
    let seconds = now_micros().saturating_sub(micros).max(0) / 1_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// RFC 3339, in whole seconds.
pub(crate) fn rfc3339(micros: i64) -> String {
    OffsetDateTime::from_unix_timestamp(micros.div_euclid(1_000_000))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_few_digits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
        let now = now_micros();
        assert_eq!(duration(999), "999 µs");
        assert_eq!(duration(12_345), "12 ms");
        assert_eq!(duration(1_234_567), "1.23 s");
        assert_eq!(ago(now + 5_000_000), "0s");
        assert_eq!(ago(now - 90_000_000), "1m");
        assert_eq!(ago(now - 3 * 86_400_000_000), "3d");
        assert_eq!(rfc3339(1_767_323_045_678_999), "2026-01-02T03:04:05Z");
    }
}
