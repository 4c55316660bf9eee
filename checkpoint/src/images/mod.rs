//! The files of a checkpoint, as CRIU writes them.
//!
//! ```text
//! <dir>/inventory.img     one record about the whole dump
//!       pstree.img        the process tree
//!       core-N.img ...    per process
//!       netns-N.img       network namespace, with a key if it was left out (external)
//!       pages-N.img       memory, no framing
//! ```
//!
//! Every framed file begins with one or two 32-bit magic numbers and then holds
//! records, each a 32-bit length and a protobuf message (CRIU's image.c and
//! protobuf.c). [`frame`] reads the framing, [`proto`] the messages, [`dir`] a
//! directory of such files, which may be on disk or in memory ([`Images`]).
//!
//! [`verify`](verify()) distinguishes a complete checkpoint from a damaged one.
//! [`network`] returns whether the network namespace was left out,
//! [`sockets`](sockets()) lists the sockets, [`unrestorable`](unrestorable()) the parts
//! that CRIU can't restore, and [`forked`] finds the processes that share memory with
//! their parent.

pub(crate) mod dir;
mod error;
pub(crate) mod forked;
pub(crate) mod frame;
mod netns;
pub(crate) mod proto;
pub(crate) mod pstree;
mod sockets;
pub(crate) mod source;
mod unrestorable;
pub(crate) mod verify;

pub use error::Error;
pub use netns::{Network, network};
pub use pstree::{Ids, ids};
pub(crate) use sockets::each_file;
pub use sockets::{
    Inet, Protocol, Socket, SocketKind, SocketType, TcpState, Unix, addresses, sockets,
};
pub use source::Images;
pub use unrestorable::{Unrestorable, deleted_directories, unrestorable};
pub use verify::verify;
