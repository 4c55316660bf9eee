//! IDs for jobs whose caller gives none: an adjective and an animal, `quiet-otter`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const ADJECTIVES: [&str; 32] = [
    "able", "brave", "bright", "calm", "clever", "cosy", "eager", "early", "fair", "fast", "fresh",
    "gentle", "glad", "golden", "grand", "happy", "keen", "kind", "late", "light", "lucky",
    "mellow", "neat", "new", "proud", "quick", "quiet", "ready", "sharp", "sunny", "warm", "wise",
];

const ANIMALS: [&str; 32] = [
    "badger", "bear", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "finch",
    "fox", "hare", "hawk", "heron", "horse", "ibex", "koala", "lark", "lynx", "marten", "mole",
    "moose", "newt", "otter", "owl", "panda", "puffin", "raven", "robin", "seal", "swan", "wolf",
];

/// The attempts with two words alone; later ones have a number, too.
pub(super) const PLAIN_ATTEMPTS: u32 = 8;

/// A random ID. The caller tries again if it is taken.
pub(super) fn random(attempt: u32) -> String {
    let random = RandomState::new().hash_one(attempt);
    let word = |words: [&'static str; 32], shift: u32| words[(random >> shift & 31) as usize];
    let name = format!("{}-{}", word(ADJECTIVES, 0), word(ANIMALS, 5));
    match attempt < PLAIN_ATTEMPTS {
        true => name,
        false => format!("{name}-{}", random >> 10 & 0xfff_ffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::id::JobId;

    #[test]
    fn a_name_is_a_valid_id() {
        for attempt in 0..PLAIN_ATTEMPTS * 2 {
            JobId::parse(&random(attempt)).expect("valid");
        }
    }
}
