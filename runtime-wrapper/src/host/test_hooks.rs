//! What the integration tests set in the environment. Released binaries are built
//! without the feature `test-hooks` and read none of it.

/// The number of bytes that a dump is expected to write, in place of the size of
/// the container's memory: tests have small containers.
pub(crate) fn expected_bytes() -> Option<u64> {
    variable("CEDANA_TEST_EXPECTED")?.parse().ok()
}

/// Path of a FIFO. The page source opens it before it prefetches, so that a test
/// decides how long a container lacks memory.
pub(crate) fn prefetch_gate() -> Option<String> {
    variable("CEDANA_TEST_PREFETCH_GATE")
}

#[cfg(feature = "test-hooks")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(not(feature = "test-hooks"))]
fn variable(_name: &str) -> Option<String> {
    None
}
