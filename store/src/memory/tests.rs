use crate::fixture::{Fixture, memory};

#[test]
fn a_chunk_that_was_moved_is_found_by_the_catalogue() {
    let fixture = Fixture::new();
    let one = fixture.write("one", &memory(1..600));
    let changed = (1..600).map(|page| if page % 50 == 9 { page + 9000 } else { page });
    let two = fixture.write("two", &memory(changed));
    assert!(two.list.chunks.iter().any(|chunk| chunk.base.is_some()));
    for mut written in [one, two] {
        // As if all its packs had been compacted away.
        for pack in &mut written.list.packs {
            pack.0[0] ^= 0xFF;
        }
        assert!(fixture.read(&written.list).expect("read") == written.raw);
    }
}

#[test]
fn a_base_that_nothing_needs_any_more_may_be_missing() {
    let fixture = Fixture::new();
    let base = fixture.write("base", &memory(1..400));
    let changed: Vec<u32> = (1..400)
        .map(|page| if page % 50 == 9 { page + 9000 } else { page })
        .collect();
    let patched = fixture.write("patched", &memory(changed.clone()));
    assert!(patched.list.chunks.iter().any(|chunk| chunk.base.is_some()));
    // Meanwhile another checkpoint stored the same chunks whole, and the base is removed.
    let other = Fixture::new();
    let whole = other.write("whole", &memory(changed));
    assert!(whole.list.chunks.iter().all(|chunk| chunk.base.is_none()));
    assert!(other.read(&patched.list).expect("read") == patched.raw);
    // What is memory itself may not be missing, with or without a base.
    let error = other.read(&base.list).expect_err("missing").to_string();
    assert!(error.contains("is not in the store"), "{error}");
}
