//! Lists archives of TCP connections: any file, or a sound one in which a few bytes are
//! changed. The first byte of the input selects one of the two. An archive that is
//! accepted is, byte for byte, what the writer makes of the images in it.

#![no_main]

use std::io;

use cedana_checkpoint::format::streams::{Packed, Writer, list};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, archive)) => check(archive),
        Some((count, rest)) => check(&changed(usize::from(*count), rest)),
        None => {}
    }
});

/// An archive of `count` images, whose sizes are the first bytes of the input, with the
/// rest as changes: a place in two bytes, and the new byte. The last change cuts it.
fn changed(count: usize, input: &[u8]) -> Vec<u8> {
    let (sizes, changes) = input.split_at(count.min(input.len()));
    let mut writer = Writer::new(Vec::new());
    for (number, size) in (0x100..).zip(sizes) {
        let image = vec![*size; usize::from(*size) * 5];
        let name = format!("tcp-stream-{number:x}.img");
        let appended = writer.append(&name, image.len() as u64, &*image);
        appended.expect("in order");
    }
    let (mut archive, _, _) = writer.finish().expect("to memory");
    let (changes, cut) = changes.as_chunks::<3>();
    for [high, low, byte] in changes {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % archive.len();
        archive[at] = *byte;
    }
    if let [cut, ..] = cut {
        archive.truncate(archive.len() - usize::from(*cut));
    }
    archive
}

fn check(archive: &[u8]) {
    let read = |at: u64, out: &mut [u8]| -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let part = archive.get(at..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(part.expect("only bytes of the archive are read"));
        Ok(())
    };
    let Ok(images) = list(archive.len() as u64, read) else {
        return;
    };
    assert!(
        images.len() <= archive.len() / 512,
        "more images than blocks"
    );
    let mut writer = Writer::new(Vec::new());
    for Packed { name, offset, size } in images {
        let image = &archive[offset as usize..][..size as usize];
        writer.append(&name, size, image).expect("a name in order");
    }
    let (again, _, _) = writer.finish().expect("to memory");
    assert!(again == archive, "it has something that is not listed");
}
