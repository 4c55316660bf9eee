//! The search path for programs if the caller sets no `PATH`.
//!
//! Podman calls a runtime's `kill`, `delete`, `pause` and `resume` with
//! `XDG_RUNTIME_DIR` alone (libpod/oci_conmon_common.go, 3.0 to 5.8), and a unit
//! file or a hook may clear the environment. A shell then searches a built-in
//! path. Our programs do the same, and they pass that path on: runc looks up
//! "criu", and CRIU "iptables-restore" and "tar", in the environment they inherit.

use std::ffi::{OsStr, OsString};

/// The directories searched without a `PATH`: those of root's login on Debian,
/// Fedora and their relatives. Administrators' own programs come first.
pub const DEFAULT_SEARCH_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The search path that a `PATH` of this value lacks: [`DEFAULT_SEARCH_PATH`] if
/// it is unset or empty, else none.
///
/// ```
/// use cedana_contract::search_path::{DEFAULT_SEARCH_PATH, missing_search_path};
/// use std::ffi::OsStr;
///
/// assert_eq!(missing_search_path(None), Some(DEFAULT_SEARCH_PATH.into()));
/// assert_eq!(missing_search_path(Some(OsStr::new("/opt/bin"))), None);
/// ```
#[must_use]
pub fn missing_search_path(path: Option<&OsStr>) -> Option<OsString> {
    path.is_none_or(OsStr::is_empty)
        .then(|| DEFAULT_SEARCH_PATH.into())
}

/// Sets `PATH` where the caller set none, for this process and for the programs
/// that it starts.
///
/// # Safety
/// No other thread exists, so none reads the environment meanwhile.
pub unsafe fn provide() {
    let path = std::env::var_os("PATH");
    if let Some(missing) = missing_search_path(path.as_deref()) {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var("PATH", missing) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_path_is_replaced() {
        let default = Some(OsString::from(DEFAULT_SEARCH_PATH));
        assert_eq!(missing_search_path(None), default);
        assert_eq!(missing_search_path(Some(OsStr::new(""))), default);
        assert_eq!(missing_search_path(Some(OsStr::new("/nowhere"))), None);
    }
}
