//! Command line flags, and the programs' names.

/// The OCI runtime that owns checkpoint and restore.
pub const WRAPPER: &str = "cedana-runc";

/// `cedana-runc --cedana-version`: its own version. (`--version` prints the
/// wrapped runtime's, whose output clients parse.)
pub const OWN_VERSION: &str = "--cedana-version";

/// `cedana-runc --cedana-hold-netns [CHECKPOINT]`: creates a network namespace,
/// writes one byte to stdout, and holds the namespace until stdin ends.
/// Connections of the checkpoint are locked in it.
pub const HOLD_NETNS: &str = "--cedana-hold-netns";

/// `cedana-runc --cedana-page-source`: serves the memory of a container that is
/// being restored.
pub const PAGE_SOURCE: &str = "--cedana-page-source";

/// `cedana-runc --cedana-copy-output`: copies stdin to stdout until stdin ends, and
/// reads on if nothing can be written: the reader of a restored container's output.
pub const COPY_OUTPUT: &str = "--cedana-copy-output";

/// `cedana-runc checkpoint --progress-fd N`: the descriptor to which
/// [`progress`](crate::progress) messages are written.
pub const PROGRESS_FD: &str = "progress-fd";

/// `cedana-runc checkpoint --archive-dir DIR`: the checkpoint becomes one file
/// `NAME_DATETIME.tar` in this directory, whose path is the output.
pub const ARCHIVE_DIR: &str = "archive-dir";

/// `cedana-runc checkpoint --archive-name NAME`: the beginning of that file's name,
/// instead of the container's ID.
pub const ARCHIVE_NAME: &str = "archive-name";

/// `cedana-runc restore --netns PATH`: the network namespace for a bundle that
/// names none.
pub const NETNS: &str = "netns";
