//! A COSE_Sign1 under a key that the fuzzer does not know: never verifies, never panics.
#![no_main]

#[path = "../../job/tests/support/entropy.rs"]
mod entropy;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use myelin_wire::cose::{CONTRACT_TYPE, RECEIPT_TYPE, Signer, Verifier};

static KEY: LazyLock<Verifier> = LazyLock::new(|| {
    let signer = Signer::generate(&mut entropy::SeededEntropy::new(7)).unwrap();
    Verifier::new(&signer.public_key()).unwrap()
});

fuzz_target!(|data: &[u8]| {
    assert!(KEY.open(RECEIPT_TYPE, data).is_err());
    assert!(
        KEY.verify_detached(CONTRACT_TYPE, data, b"contract")
            .is_err()
    );
    if let Some(key) = data.first_chunk::<65>() {
        let _ = Verifier::new(key);
    }
});
