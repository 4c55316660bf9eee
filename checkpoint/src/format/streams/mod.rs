//! The archive of a checkpoint's TCP connections, `tcp-streams.tar`.
//!
//! CRIU writes an image for each connection, `tcp-stream-N.img` with the socket's inode
//! in hexadecimal. These are the only images whose number grows with connections. An
//! engine takes most of a millisecond for each file of a checkpoint, whatever its size,
//! so a checkpoint with many of them has one archive instead:
//!
//! ```text
//! header 0 | image 0, zeros | header 1 | image 1, zeros | ... | two blocks of zeros
//! ```
//!
//! It is an uncompressed POSIX tar file in blocks of 512 bytes, which tar(1) unpacks and
//! in which each image can be read alone. Its images are in ascending order of their
//! names, so it has none twice. Each header is the only one that its name and size can
//! have ([`header`]), so all readers of tar files find the same in it.
//!
//! ```text
//! CRIU's images ─► publish: appended, synced, then removed ─► tcp-streams.tar
//! tcp-streams.tar ─► list ─► contents: CRIU's images again, for CRIU and unpack
//!                       └──► Listed: the same for inspect, not verified
//! ```
//!
//! The archive is untrusted input: [`list`] accepts nothing else than what [`Writer`]
//! writes, and needs less memory than the archive has bytes. A process that is killed
//! while it writes the archive leaves a staging directory, which is no checkpoint
//! ([`crate::format::publish`]).

mod reader;
mod writer;

use std::fmt::Write as _;

use tar::{EntryType, Header};

pub use reader::{Fault, Packed, list};
pub use writer::Writer;

/// The archive's file name.
pub const NAME: &str = "tcp-streams.tar";

/// The most connections whose images stay files of their own, which `crit` reads. Docker
/// takes 0.8 ms for each file of a checkpoint, so these cost 50 ms at most.
pub const MAX_FILES: usize = 64;

/// The unit of a tar file.
const BLOCK: usize = 512;

/// Bytes of zeros at the end.
const END: u64 = 2 * BLOCK as u64;

/// Whether CRIU gives this name to the image of a TCP connection (criu/image-desc.c:
/// `tcp-stream-%x`).
#[must_use]
pub fn is_stream(name: &str) -> bool {
    let inode = name
        .strip_prefix("tcp-stream-")
        .and_then(|rest| rest.strip_suffix(".img"));
    inode.is_some_and(|digits| {
        // The same number with a sign, a zero in front or a capital is another name.
        let mut name = String::new();
        let number = u32::from_str_radix(digits, 16);
        number.is_ok_and(|number| write!(name, "{number:x}").is_ok() && name == digits)
    })
}

/// The header of an image: a regular file of root's, of mode 0600, from 1970.
fn header(name: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    // The name of a stream is plain and shorter than the field.
    let place = &mut header.as_old_mut().name;
    for (to, from) in place.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

/// Bytes of zeros after an image of this size.
fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    (BLOCK - over) % BLOCK
}

#[cfg(test)]
pub(crate) mod tests;
