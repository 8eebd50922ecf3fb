//! A contract's bytes: no panic, and no allocation by a length that the bytes do not have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use myelin_wire::Contract;

fuzz_target!(|data: &[u8]| {
    if let Ok(contract) = Contract::read(data) {
        assert!(
            contract.verify(data, &[]).is_err(),
            "a contract is bound without signatures"
        );
        assert_eq!(contract.records(), contract.event.dataset_size);
    }
});
