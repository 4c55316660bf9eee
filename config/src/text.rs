//! Values as text, in the syntax that [`value`](crate::value) parses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::{
    Accept, Check, Compression, ConfigAnnotation, Cores, Doubtful, Mode, ResumeEarly, Storage, Tcp,
};

/// A value that a settings file can hold.
pub(crate) trait Text {
    /// The value as the settings file has it, without quotes.
    fn text(&self) -> String;
}

impl Text for bool {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Text for i32 {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Text for usize {
    fn text(&self) -> String {
        self.to_string()
    }
}

/// A size in bytes.
impl Text for u64 {
    fn text(&self) -> String {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let exact = units
            .into_iter()
            .find(|(_, shift)| *self != 0 && self.is_multiple_of(1 << shift));
        match exact {
            Some((unit, shift)) => format!("{}{unit}", self >> shift),
            None => self.to_string(),
        }
    }
}

impl Text for Duration {
    fn text(&self) -> String {
        match self.subsec_millis() {
            0 => format!("{}s", self.as_secs()),
            _ => format!("{}ms", self.as_millis()),
        }
    }
}

/// A time limit, of which 0 means none.
impl Text for Option<Duration> {
    fn text(&self) -> String {
        self.unwrap_or_default().text()
    }
}

/// A switch with the third value `auto`.
impl Text for Option<bool> {
    fn text(&self) -> String {
        self.map_or_else(|| "auto".to_owned(), |on| on.to_string())
    }
}

impl Text for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// A path that may be missing.
impl Text for Option<PathBuf> {
    fn text(&self) -> String {
        self.as_ref().map(Text::text).unwrap_or_default()
    }
}

/// An address that may be missing.
impl Text for Option<SocketAddr> {
    fn text(&self) -> String {
        self.map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

impl Text for Cores {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }
}

/// Names of an enum's values.
macro_rules! names {
    ($($type:ident { $($value:ident: $name:literal),+ $(,)? })+) => {
        $(impl Text for $type {
            fn text(&self) -> String {
                match self {
                    $(Self::$value => $name,)+
                }
                .to_owned()
            }
        })+
    };
}

names! {
    ResumeEarly { Never: "false", Certain: "true", Container: "container" }
    Doubtful { Refuse: "refuse", Warn: "warn" }
    Compression { Auto: "auto", None: "none", Zstd: "zstd" }
    Storage { Auto: "auto", Reference: "reference", Inline: "inline" }
    Mode { Lazy: "lazy", Eager: "eager" }
    Tcp { Auto: "auto", Keep: "keep", Close: "close", Refuse: "refuse" }
    Check { Strict: "strict", Warn: "warn", Off: "off" }
    Accept { Any: "any", Ours: "ours", Signed: "signed" }
    ConfigAnnotation { EtcCriu: "etc-criu", Any: "any", Refuse: "refuse" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_that_of_the_file() {
        assert_eq!((512_u64 << 20).text(), "512MiB");
        assert_eq!((3_u64 << 30).text(), "3GiB");
        assert_eq!(1000_u64.text(), "1000");
        assert_eq!(0_u64.text(), "0");
        assert_eq!(Duration::from_secs(60).text(), "60s");
        assert_eq!(Duration::from_millis(1020).text(), "1020ms");
        assert_eq!(None::<Duration>.text(), "0s");
    }
}
