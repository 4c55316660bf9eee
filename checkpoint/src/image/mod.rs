//! The files of a checkpoint, as CRIU writes them.
//!
//! ```text
//! <dir>/inventory.img     one record: versions and what is in here
//!       pstree.img        the process tree
//!       core-N.img ...    per process
//!       netns-N.img       network namespace; says if it was left out (external)
//!       pages-N.img       memory, no framing
//! ```
//!
//! Every framed file begins with one or two 32-bit magic numbers and then holds
//! records, each a 32-bit length and a protobuf message (CRIU's image.c and
//! protobuf.c). That is enough to tell a whole checkpoint from a broken one
//! before anything is touched, which CRIU itself finds out half-way through.

pub mod contents;
mod dir;
mod forked;
mod frame;
pub mod inspect;
pub mod lazy;
mod machine;
pub mod manifest;
mod netns;
pub mod pages;
mod proto;
mod reserved;
mod sockets;
pub mod store;
pub mod unpack;
mod unrestorable;
mod verify;

pub use machine::Unfit;
pub use netns::{Network, network};
pub use reserved::reserve;
pub use sockets::{Inet, Protocol, Socket, SocketKind, SocketType, TcpState, Unix, sockets};
pub use unpack::unpack;
pub use unrestorable::{Unrestorable, deleted_directories, unrestorable};
pub use verify::{Error, verify};
