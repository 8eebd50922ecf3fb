//! A run from launch to release, and a resumed one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::cose::{CERTIFICATE_TYPE, Verifier};
use myelin_wire::{Reader, Writer, sha256};
use support::{World, accepted, results};

fn model(world: &World, party: usize, sealed_model: &[u8]) -> Vec<u8> {
    let mut r = Reader::new(sealed_model);
    r.array("file", 5, 5).unwrap();
    r.constant("magic", "myelin-sealed-model").unwrap();
    let contract = r.fixed::<32>("contract").unwrap();
    let run = r.fixed::<32>("run").unwrap();
    assert_eq!(r.uint("party").unwrap(), party as u64);
    let sealed = r.bytes("sealed", 0, usize::MAX).unwrap();
    let info = Writer::info("myelin/model/v1", 3)
        .bytes(contract)
        .bytes(run)
        .uint(party as u64)
        .finish();
    world.parties[party]
        .opening
        .open(&info, sealed)
        .expect("the model opens")
        .to_vec()
}

#[test]
fn states_follow_each_other() {
    let mut w = World::new();
    assert_eq!(w.state(), "starting");
    let reply = accepted(w.launch());
    assert_eq!(
        results(&reply).uint("abi version").unwrap(),
        myelin_abi::ABI_VERSION
    );
    assert_eq!((w.state(), w.job.threads()), ("launched", 2));
    let reply = accepted(w.bind());
    assert_eq!(
        results(&reply).fixed::<32>("digest").unwrap(),
        &w.contract()
    );
    assert_eq!(w.state(), "bound");
    for missing in [2, 1, 0] {
        let reply = accepted(w.grant(2 - missing, false));
        assert_eq!(results(&reply).uint("missing").unwrap(), missing as u64);
    }
    assert_eq!(w.state(), "admitted");
    w.deposit_all();
    (0..3).for_each(|i| w.load(i));
    assert_eq!(w.state(), "ready");
    accepted(w.train(3));
    assert_eq!(w.state(), "training");
    let reply = accepted(w.train(u64::MAX));
    let mut r = results(&reply);
    assert_eq!((r.uint("done").unwrap(), r.uint("all").unwrap()), (5, 5));
    assert_eq!(w.state(), "trained");
    w.release();
    assert_eq!(w.state(), "released");
    assert!(w.seen.borrow().dropped, "the engine goes with the release");
}

#[test]
fn the_engine_sees_all_records_in_order() {
    let mut w = World::ready();
    accepted(w.train(1));
    let expected: Vec<u8> = w.files.iter().flat_map(|f| f.plain.clone()).collect();
    assert_eq!(w.seen.borrow().records, expected);
    assert_eq!(w.seen.borrow().dataset_size, 27_286);
}

#[test]
fn recipients_and_only_they_get_the_model() {
    let mut w = World::new();
    let outputs = w.whole_run(false);
    assert_eq!(outputs.len(), 3);
    let (first, last) = (model(&w, 0, &outputs[1]), model(&w, 3, &outputs[2]));
    assert_eq!(first, last);
    assert!(first.starts_with(support::engine::MODEL_HEADER));
    let mut r = Reader::new(&outputs[0]);
    r.array("bundle", 3, 3).unwrap();
    r.constant("magic", "myelin-certificate").unwrap();
    let certificate = r.bytes("certificate", 0, 65536).unwrap();
    let keys = w.keys();
    let payload = Verifier::new(&keys.signing)
        .unwrap()
        .open(CERTIFICATE_TYPE, certificate)
        .unwrap();
    for part in [
        sha256(&first),
        sha256(&outputs[1]),
        sha256(&outputs[2]),
        keys.boot_id(),
        w.contract(),
    ] {
        assert!(payload.windows(32).any(|window| window == part));
    }
}

#[test]
fn releasing_again_gives_the_same_bytes() {
    let mut w = World::new();
    let first = w.whole_run(false);
    assert_eq!(w.release(), first);
}

#[test]
fn a_resumed_run_has_the_same_keys_and_model() {
    let mut w = World::new();
    let first = w.whole_run(false);
    let keys = w.seen.borrow().keys;
    let run = w.shares().0;
    let old_model = model(&w, 3, &first[2]);
    let mut w = w.reboot(2);
    let second = w.whole_run(true);
    assert_eq!(w.seen.borrow().keys, keys);
    assert_eq!(w.shares(), (run, vec![]));
    assert_eq!(model(&w, 3, &second[2]), old_model);
    assert_ne!(first[2], second[2], "sealed with new randomness");
}

#[test]
fn a_fresh_run_of_the_same_contract_is_unrelated() {
    let mut w = World::new();
    w.whole_run(false);
    let keys = w.seen.borrow().keys;
    let mut w = w.reboot(2);
    w.whole_run(false);
    assert_ne!(w.seen.borrow().keys, keys);
}

#[test]
fn what_the_contract_withholds_is_not_in_the_certificate() {
    let certificate = |release| {
        let mut w = World::new();
        w.draft.release = release;
        w.whole_run(false).remove(0)
    };
    let has = |bytes: &[u8], key: &str, value: Writer| {
        let pattern = [Writer::new().text(key).finish(), value.finish()].concat();
        bytes.windows(pattern.len()).any(|window| window == pattern)
    };
    let records = || Writer::new().array(3).uint(4).uint(20_000).uint(7_282);
    let open = certificate((true, true));
    assert!(has(&open, "records", records()) && has(&open, "nonfinite", Writer::new().uint(7)));
    let closed = certificate((false, false));
    assert!(
        has(&closed, "records", Writer::new().nil())
            && has(&closed, "nonfinite", Writer::new().nil())
    );
}

#[test]
fn fetch_reads_pieces() {
    let mut w = World::new();
    let outputs = w.whole_run(false);
    let mut whole = Vec::new();
    while whole.len() < outputs[1].len() {
        let reply = accepted(w.send(&myelin_wire::Request::Fetch {
            output: 1,
            offset: whole.len() as u64,
            length: 100,
        }));
        whole.extend_from_slice(results(&reply).bytes("piece", 1, 100).unwrap());
    }
    assert_eq!(whole, outputs[1]);
}
