//! Where the daemon listens and keeps its files.

/// The daemon's socket.
pub const SOCKET: &str = "/run/cedana/cedana.sock";

/// The daemon's TCP address.
pub const TCP: &str = "127.0.0.1:8080";

/// The directory of sockets and of running jobs. It does not survive a reboot.
pub const RUN_DIR: &str = "/run/cedana";

/// The directory of the database and of the jobs' files.
pub const STATE_DIR: &str = "/var/lib/cedana";

/// The file in the state directory with the token that clients send over TCP.
pub const TOKEN_FILE: &str = "token";

/// The group whose members may use the socket.
pub const GROUP: &str = "cedana";
