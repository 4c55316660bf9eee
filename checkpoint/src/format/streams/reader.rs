//! Lists the images of an archive of TCP connections.

use std::io;

use tar::Header;

use super::{BLOCK, END, header, is_stream, padding};

/// The most images of one archive, as many as the sockets that a checkpoint may have.
const MAX_IMAGES: usize = 1 << 20;

/// One image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its name, `tcp-stream-N.img`.
    pub name: String,
    /// The offset of its first byte in the archive.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// The reason that an archive can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It can't be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It ends within an image, or before its last two blocks.
    #[error("it is truncated")]
    Truncated,
    /// It goes on after its end.
    #[error("there is something after its end")]
    Trailing,
    /// A header is not one of this program.
    #[error("the header at byte {0} is not one of a TCP connection")]
    Header(u64),
    /// The rest of an image's last block is not empty.
    #[error("there is something after the image {0}")]
    Padding(String),
    /// An image is there twice, or the images are not in order.
    #[error("the image {0} is there twice or not in its place")]
    Order(String),
    /// It has more images than a checkpoint has sockets.
    #[error("it has more connections than any container")]
    TooMany,
}

/// Lists the images of an archive of `length` bytes. `read` fills a buffer from an offset
/// of the archive.
///
/// # Errors
/// It is not an archive that [`super::Writer`] writes.
pub fn list(
    length: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<Vec<Packed>, Fault> {
    let mut images: Vec<Packed> = Vec::new();
    // The offset of the last two blocks.
    let end = length.checked_sub(END).ok_or(Fault::Truncated)?;
    let mut at = 0;
    let mut block = [0; BLOCK];
    loop {
        read(at, &mut block)?;
        if block == [0; BLOCK] {
            break;
        }
        let (name, size) = parse(&block).ok_or(Fault::Header(at))?;
        let offset = at + BLOCK as u64;
        let padding = padding(size);
        at = offset
            .checked_add(size)
            .and_then(|at| at.checked_add(padding as u64))
            .filter(|at| *at <= end)
            .ok_or(Fault::Truncated)?;
        let rest = &mut block[..padding];
        read(offset + size, rest)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(Fault::Padding(name));
        }
        if images.last().is_some_and(|last| last.name >= name) {
            return Err(Fault::Order(name));
        }
        if images.len() == MAX_IMAGES {
            return Err(Fault::TooMany);
        }
        images.push(Packed { name, offset, size });
    }
    read(at + BLOCK as u64, &mut block)?;
    match at == end && block == [0; BLOCK] {
        true => Ok(images),
        false => Err(Fault::Trailing),
    }
}

/// The name and the size in a header; `None` if it is not the header of such an image.
fn parse(block: &[u8; BLOCK]) -> Option<(String, u64)> {
    let found = Header::from_byte_slice(block);
    let size = found.entry_size().ok()?;
    let name = found.as_old().name.split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    // One name and one size have one header, so nothing else can be hidden in it.
    let expected = is_stream(name).then(|| header(name, size))?;
    (expected.as_bytes() == block).then(|| (name.to_owned(), size))
}
