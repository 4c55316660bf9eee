//! Parsers of values. File, environment and annotations have the same syntax.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{
    Accept, Check, Compression, ConfigAnnotation, Cores, Doubtful, Mode, ResumeEarly, Storage, Tcp,
};

/// The longest time limit. A longer one is a mistake in the unit.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A parsed value, or an error that says which values are valid.
pub(crate) type Parsed<T> = Result<T, String>;

pub(crate) fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// `None` for `auto`.
pub(crate) fn boolean_or_auto(text: &str) -> Parsed<Option<bool>> {
    match text {
        "auto" => Ok(None),
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        _ => Err(format!("{text:?} is none of auto, true and false")),
    }
}

pub(crate) fn resume_early(text: &str) -> Parsed<ResumeEarly> {
    match text {
        "false" => Ok(ResumeEarly::Never),
        "true" => Ok(ResumeEarly::Certain),
        "container" => Ok(ResumeEarly::Container),
        _ => Err(format!("{text:?} is none of true, false and container")),
    }
}

pub(crate) fn tcp(text: &str) -> Parsed<Tcp> {
    match text {
        "auto" => Ok(Tcp::Auto),
        "keep" => Ok(Tcp::Keep),
        "close" => Ok(Tcp::Close),
        "refuse" => Ok(Tcp::Refuse),
        _ => Err(format!("{text:?} is none of auto, keep, close and refuse")),
    }
}

pub(crate) fn storage(text: &str) -> Parsed<Storage> {
    match text {
        "auto" => Ok(Storage::Auto),
        "reference" => Ok(Storage::Reference),
        "inline" => Ok(Storage::Inline),
        _ => Err(format!("{text:?} is none of auto, reference and inline")),
    }
}

pub(crate) fn doubtful(text: &str) -> Parsed<Doubtful> {
    match text {
        "refuse" => Ok(Doubtful::Refuse),
        "warn" => Ok(Doubtful::Warn),
        _ => Err(format!("{text:?} is neither refuse nor warn")),
    }
}

pub(crate) fn count(text: &str) -> Parsed<usize> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a whole number of 0 or more"))
}

/// A size in bytes: a plain number, or one with a binary or decimal unit.
pub(crate) fn size(text: &str) -> Parsed<u64> {
    let invalid = || format!("{text:?} is not a size such as 1048576, \"512MiB\" or \"2GB\"");
    let (number, unit) = split_unit(text).ok_or_else(invalid)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?} is more than {} bytes", u64::MAX))
}

/// Compression of memory.
pub(crate) fn compression(text: &str) -> Parsed<Compression> {
    match text {
        "auto" => Ok(Compression::Auto),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        _ => Err(format!(
            "{text:?} is none of \"auto\", \"zstd\" and \"none\""
        )),
    }
}

/// The mode of a restore.
pub(crate) fn mode(text: &str) -> Parsed<Mode> {
    match text {
        "lazy" => Ok(Mode::Lazy),
        "eager" => Ok(Mode::Eager),
        _ => Err(format!("{text:?} is neither lazy nor eager")),
    }
}

/// Treatment of a checkpoint with more privileges than the spec.
pub(crate) fn check(text: &str) -> Parsed<Check> {
    match text {
        "strict" => Ok(Check::Strict),
        "warn" => Ok(Check::Warn),
        "off" => Ok(Check::Off),
        _ => Err(format!("{text:?} is none of strict, warn and off")),
    }
}

/// The checkpoints that may be restored.
pub(crate) fn accept(text: &str) -> Parsed<Accept> {
    match text {
        "any" => Ok(Accept::Any),
        "ours" => Ok(Accept::Ours),
        "signed" => Ok(Accept::Signed),
        _ => Err(format!("{text:?} is none of any, ours and signed")),
    }
}

/// The CRIU configuration files that an annotation may name.
pub(crate) fn config_annotation(text: &str) -> Parsed<ConfigAnnotation> {
    match text {
        "etc-criu" => Ok(ConfigAnnotation::EtcCriu),
        "any" => Ok(ConfigAnnotation::Any),
        "refuse" => Ok(ConfigAnnotation::Refuse),
        _ => Err(format!("{text:?} is none of etc-criu, any and refuse")),
    }
}

/// A number of cores, or a percentage of the machine's.
pub(crate) fn cores(text: &str) -> Parsed<Cores> {
    let invalid =
        || format!("{text:?} is neither a number of cores from 1 on nor a share from 1% to 100%");
    match split_unit(text) {
        Some((number @ 1..=100, "%")) => Ok(Cores::Percent(number as u8)),
        Some((number @ 1..=1024, "")) => Ok(Cores::Number(number as u16)),
        _ => Err(invalid()),
    }
}

/// A zstd level. Beyond 19 each thread takes hundreds of megabytes, and below -7
/// hardly anything is compressed.
pub(crate) fn level(text: &str) -> Parsed<i32> {
    match text.parse() {
        Ok(level @ -7..=19) => Ok(level),
        _ => Err(format!("{text:?} is not a whole number from -7 to 19")),
    }
}

/// Memory for buffers. Less than 4 MiB leaves no room to work.
pub(crate) fn memory(text: &str) -> Parsed<u64> {
    match size(text)? {
        bytes if bytes >= 4 << 20 => Ok(bytes),
        _ => Err(format!("{text:?} is less than 4MiB")),
    }
}

/// A duration with its unit. A bare number would be ambiguous.
pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let invalid = || format!("{text:?} is not a duration such as \"500ms\", \"60s\" or \"5m\"");
    let (number, unit) = split_unit(text).ok_or_else(invalid)?;
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ if number == 0 && unit.is_empty() => 1,
        _ => return Err(invalid()),
    };
    number
        .checked_mul(factor)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is too long"))
}

/// A duration that a client waits for. The limit bounds how long a container can
/// delay its start and the client.
pub(crate) fn short_wait(text: &str) -> Parsed<Duration> {
    match duration(text)? {
        wait if wait <= Duration::from_secs(10) => Ok(wait),
        _ => Err(format!("{text:?} is more than 10s")),
    }
}

/// A time limit, of which 0 means none.
pub(crate) fn time_limit(text: &str) -> Parsed<Option<Duration>> {
    match duration(text)? {
        Duration::ZERO => Ok(None),
        limit if limit <= DAY => Ok(Some(limit)),
        _ => Err(format!("{text:?} is longer than a day; 0 means no limit")),
    }
}

/// The time between two runs of something, of which 0 means that it does not run.
pub(crate) fn period(text: &str) -> Parsed<Duration> {
    match duration(text)? {
        period if period.is_zero() || period >= Duration::from_secs(1) => Ok(period),
        _ => Err(format!("{text:?} is less than 1s; 0 means never")),
    }
}

/// A duration for CRIU's `timeout`: whole seconds in an unsigned int, of which 0
/// means no limit.
pub(crate) fn whole_seconds(text: &str) -> Parsed<Duration> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 || duration.is_zero() {
        return Err(format!("{text:?} is not one or more whole seconds"));
    }
    if duration > DAY {
        return Err(format!("{text:?} is longer than a day"));
    }
    Ok(duration)
}

/// A program: a name to look up in `PATH`, or an absolute path. A relative path
/// would depend on the caller's working directory.
pub(crate) fn program(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() || text.contains('\0') || (text.contains('/') && !text.starts_with('/')) {
        return Err(format!(
            "{text:?} is neither a program's name nor an absolute path"
        ));
    }
    Ok(PathBuf::from(text))
}

/// A path that may be left out: an empty text.
pub(crate) fn absolute_or_none(text: &str) -> Parsed<Option<PathBuf>> {
    match text {
        "" => Ok(None),
        _ => absolute(text).map(Some),
    }
}

/// An IP address with a port, or `off`. A host name could mean several addresses.
pub(crate) fn address_or_off(text: &str) -> Parsed<Option<SocketAddr>> {
    match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            format!(
                "{text:?} is neither an IP address with a port, such as 127.0.0.1:8080, nor off"
            )
        }),
    }
}

pub(crate) fn absolute(text: &str) -> Parsed<PathBuf> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        return Err(format!("{text:?} is not an absolute path"));
    }
    Ok(PathBuf::from(text))
}

/// Digits, optional spaces, letters.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("2 GB"), Ok(2_000_000_000));
        for invalid in ["", "MiB", "-1", "1.5GiB", "12 parsecs", "99999999999TiB"] {
            assert!(size(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for invalid in ["", "20", "ms", "1 fortnight", "18446744073709551615h"] {
            assert!(duration(invalid).is_err(), "{invalid}");
        }
        assert!(whole_seconds("1500ms").is_err());
        assert!(whole_seconds("0s").is_err());
        assert_eq!(whole_seconds("60s"), Ok(Duration::from_secs(60)));
    }

    #[test]
    fn storage_settings() {
        assert_eq!(compression("none"), Ok(Compression::None));
        assert_eq!(compression("auto"), Ok(Compression::Auto));
        assert!(compression("lz4").is_err());
        assert_eq!(level("-7"), Ok(-7));
        assert_eq!(level("19"), Ok(19));
        for invalid in ["-8", "20", "fast", ""] {
            assert!(level(invalid).is_err(), "{invalid}");
        }
        assert_eq!(memory("4MiB"), Ok(4 << 20));
        assert_eq!(cores("50%"), Ok(Cores::Percent(50)));
        assert_eq!(cores("3"), Ok(Cores::Number(3)));
        for invalid in ["0", "0%", "101%", "half", "", "5000"] {
            assert!(cores(invalid).is_err(), "{invalid}");
        }
        assert_eq!(mode("eager"), Ok(Mode::Eager));
        assert!(mode("auto").is_err());
        assert!(memory("4095KiB").is_err());
    }

    #[test]
    fn policies_of_the_node() {
        assert_eq!(check("strict"), Ok(Check::Strict));
        assert_eq!(check("warn"), Ok(Check::Warn));
        assert_eq!(check("off"), Ok(Check::Off));
        assert!(check("false").is_err());
        assert_eq!(accept("any"), Ok(Accept::Any));
        assert_eq!(accept("ours"), Ok(Accept::Ours));
        assert_eq!(accept("signed"), Ok(Accept::Signed));
        assert!(accept("").is_err());
        assert_eq!(config_annotation("etc-criu"), Ok(ConfigAnnotation::EtcCriu));
        assert_eq!(config_annotation("any"), Ok(ConfigAnnotation::Any));
        assert_eq!(config_annotation("refuse"), Ok(ConfigAnnotation::Refuse));
        assert!(config_annotation("/etc/criu").is_err());
        assert_eq!(time_limit("0"), Ok(None));
        assert_eq!(time_limit("0s"), Ok(None));
        assert_eq!(time_limit("90s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(time_limit("24h"), Ok(Some(DAY)));
        for invalid in ["25h", "600", "none"] {
            assert!(time_limit(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn paths() {
        assert!(program("crun").is_ok());
        assert!(program("/usr/sbin/runc").is_ok());
        assert!(program("bin/runc").is_err());
        assert!(program("").is_err());
        assert!(absolute("var/log").is_err());
    }
}
