//! A process ID on the host.

use std::fmt;
use std::process::Child;
use std::str::FromStr;

use nix::unistd;
use serde::{Deserialize, Serialize};

/// A process, by its ID in the PID namespace of the shim and `cedana-runc`. The IDs in
/// CRIU's images belong to the container's namespace and have another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Pid(i32);

impl Pid {
    /// The calling process.
    pub fn own() -> Self {
        Self(unistd::getpid().as_raw())
    }

    /// A child, which has not been reaped yet.
    pub fn of(child: &Child) -> Self {
        Self(child.id().cast_signed())
    }

    /// The number, for system calls.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

/// A number that is no process ID: zero, negative or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAPid;

impl fmt::Display for NotAPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a process ID")
    }
}

impl std::error::Error for NotAPid {}

impl TryFrom<i64> for Pid {
    type Error = NotAPid;

    fn try_from(number: i64) -> Result<Self, NotAPid> {
        match i32::try_from(number) {
            // Zero and negative numbers address process groups (kill(2)).
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(NotAPid),
        }
    }
}

impl TryFrom<i32> for Pid {
    type Error = NotAPid;

    fn try_from(number: i32) -> Result<Self, NotAPid> {
        i64::from(number).try_into()
    }
}

impl TryFrom<u32> for Pid {
    type Error = NotAPid;

    fn try_from(number: u32) -> Result<Self, NotAPid> {
        i64::from(number).try_into()
    }
}

impl FromStr for Pid {
    type Err = NotAPid;

    fn from_str(text: &str) -> Result<Self, NotAPid> {
        text.parse::<i64>().map_err(|_| NotAPid)?.try_into()
    }
}

impl From<Pid> for i32 {
    fn from(pid: Pid) -> Self {
        pid.0
    }
}

impl From<Pid> for unistd::Pid {
    fn from(pid: Pid) -> Self {
        Self::from_raw(pid.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_address_groups_are_no_process_ids() {
        let pid = |number: i32| Pid::try_from(number);
        assert_eq!("17".parse(), pid(17));
        for text in ["0", "-1", "2147483648", "", "1 2"] {
            assert_eq!(text.parse::<Pid>(), Err(NotAPid), "{text}");
        }
        assert_eq!(serde_json::from_str::<Pid>("5").ok(), pid(5).ok());
        assert!(serde_json::from_str::<Pid>("0").is_err());
    }
}
