//! A dataset's first bytes, then chunks: no panic, and no plaintext without the key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use myelin_seal::{DatasetOpener, Expected, Secret};

fuzz_target!(|data: &[u8]| {
    let key = Secret::copied_from(&[7; 32]);
    let expected = Expected {
        digest: &[1; 32],
        schema: &[2; 32],
        records: 3,
        record_bytes: 9,
    };
    let (prefix, chunk) = data.split_at(data.len().min(200));
    for prefix in [prefix, data] {
        if let Ok(mut opener) = DatasetOpener::begin(&key, prefix, &expected) {
            assert!(opener.open(0, chunk).is_err());
        }
    }
});
