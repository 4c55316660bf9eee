use super::*;
use crate::chunk::{Name, PAGE, Pages};
use proptest::prelude::*;
use std::fs::File;

fn pack() -> (tempfile::NamedTempFile, Vec<u8>) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let sink = FileSink::open(file.reopen().expect("reopen"), file.path()).expect("a sink");
    let mut writer = PackWriter::new(sink);
    let mut encoder = Encoder::new(1).expect("an encoder");
    let chunk: Vec<u8> = (0..4 * PAGE).map(|at| (at / 300) as u8).collect();
    let pages = Pages::of(&chunk);
    let mut frame = Vec::new();
    encoder.plain(&chunk, &mut frame).expect("encode");
    writer
        .add(pages.name(), None, &pages.0, &frame)
        .expect("add");
    writer
        .add(
            Name([7; 32]),
            Some(pages.name()),
            &pages.0,
            b"another frame",
        )
        .expect("add");
    let (bytes, _) = writer.finish().expect("finish");
    assert_eq!(bytes, file.as_file().metadata().expect("metadata").len());
    (file, chunk)
}

#[test]
fn an_index_is_read_from_the_end() {
    let (file, chunk) = pack();
    let index = Index::read(file.as_file()).expect("read");
    let [first, second] = &*index.entries else {
        panic!("{index:?}");
    };
    assert_eq!(first.name, Pages::of(&chunk).name());
    assert_eq!((first.offset, first.pages, first.digests.len()), (0, 4, 4));
    assert_eq!(second.base, Some(first.name));
    assert_eq!(
        (second.offset, second.digests.len()),
        (u64::from(first.stored), 0)
    );
    let length = file.as_file().metadata().expect("metadata").len();
    for end in [0, 3, 20, length / 2, length - 1] {
        let cut = tempfile::tempfile().expect("a file");
        let mut whole: &File = file.as_file();
        std::io::Seek::rewind(&mut whole).expect("rewind");
        std::io::copy(&mut std::io::Read::take(whole, end), &mut &cut).expect("copy");
        Index::read(&cut).expect_err("cut");
    }
}

#[test]
fn ids_are_hexadecimal_file_names() {
    let id = PackId::random().expect("an ID");
    assert_eq!(PackId::of_file(&id.file_name()), Some(id));
    for wrong in ["", ".pack", "0.pack", "../../etc/passwd.pack"] {
        assert_eq!(PackId::of_file(wrong), None, "{wrong}");
    }
    assert_eq!(PackId::of_file(&id.to_string()), None);
}

proptest! {
    #[test]
    fn no_content_panics(at in 0usize..400, value: u8, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Index::parse(&bytes);
        let index = Index::read(pack().0.as_file()).expect("read");
        let mut changed = index.render();
        if let Some(byte) = changed.get_mut(at) {
            *byte = value;
        }
        let _ = Index::parse(&changed);
    }
}
