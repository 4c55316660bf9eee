//! Builds the workload a second time, statically linked.
//!
//! The stories mount the workload into a busybox container, which has no C
//! library, and Cargo cannot ask for `crt-static` for one binary of a workspace
//! only. So the same source that Cargo checks, formats and lints as an ordinary
//! binary is handed to the compiler once more, and the result is embedded in
//! the harness: a test executable carries everything it needs into the testbed.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/bin/workload/main.rs";

fn main() {
    println!("cargo::rerun-if-changed=src/bin/workload");
    let variable = |name: &str| env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("workload");

    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "workload",
            "--crate-type",
            "bin",
        ])
        .args([
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "target-feature=+crt-static"])
        .args(["--target", &variable("TARGET")])
        .arg("-o")
        .arg(&output)
        .arg(SOURCE);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    match compiler.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("the static workload did not build: {compiler:?}: {status}"),
        Err(error) => panic!("the compiler did not run: {compiler:?}: {error}"),
    }
    println!("cargo::rustc-env=STATIC_WORKLOAD={}", output.display());
}
