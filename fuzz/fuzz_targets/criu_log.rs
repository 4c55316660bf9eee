//! Diagnoses a CRIU log.

#![no_main]

use cedana_checkpoint::criu::log::diagnose_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let diagnosis = diagnose_text(&String::from_utf8_lossy(input));
    let _ = diagnosis.sentence();
});
