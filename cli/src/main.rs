//! cedana
use std::process::ExitCode;
fn main() -> ExitCode {
    if let Some(code) = cedana_daemon::supervisor::run_if_asked() {
        return code;
    }
    ExitCode::SUCCESS
}
