//! A whole world around one job: parties, files, contract, and the host's side of every message.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod attester;
pub mod engine;
pub mod entropy;
pub mod parties;

use std::cell::RefCell;
use std::rc::Rc;

use myelin_job::Job;
use myelin_wire::message::Request;
use myelin_wire::{BootKeys, Code, Digest, Reader, sha256};

use attester::{Platform, TestAttester};
use engine::{HashEngine, Seen};
use entropy::SeededEntropy;
use parties::{Draft, Party, Place, RECORD_BYTES, SealedFile, signatures};

pub const STEPS: u64 = 5;

pub type TestJob = Job<HashEngine, TestAttester, SeededEntropy>;

pub struct World {
    pub job: TestJob,
    pub seen: Rc<RefCell<Seen>>,
    pub entropy: SeededEntropy,
    pub platform: Platform,
    pub parties: Vec<Party>,
    pub files: Vec<SealedFile>,
    pub draft: Draft,
    pub measurement: Digest,
}

pub fn start(seed: u64) -> (TestJob, Rc<RefCell<Seen>>, SeededEntropy, Platform) {
    let engine = HashEngine::new(RECORD_BYTES, STEPS);
    let seen = engine.seen.clone();
    let mut entropy = SeededEntropy::new(seed);
    let attester = TestAttester::start(&mut entropy, false);
    let (switch, platform) = (entropy.clone(), attester.platform.clone());
    (Job::new(engine, attester, entropy), seen, switch, platform)
}

/// The answer's number of an error, or 0.
pub fn number(reply: &[u8]) -> u64 {
    let mut reader = Reader::new(reply);
    reader.array("reply", 1, 16).unwrap();
    match reader.uint("status").unwrap() {
        0 => 0,
        _ => reader.uint("number").unwrap(),
    }
}

pub fn detail(reply: &[u8]) -> String {
    let mut reader = Reader::new(reply);
    assert_eq!(reader.array("reply", 3, 3).unwrap(), 3);
    assert_eq!(reader.uint("status").unwrap(), 1);
    reader.uint("number").unwrap();
    reader.text("detail", 0, 4096).unwrap().to_owned()
}

#[track_caller]
pub fn refused(reply: &[u8], code: Code) {
    assert_eq!(
        number(reply),
        u64::from(code.number()),
        "{}",
        describe_reply(reply)
    );
}

#[track_caller]
pub fn accepted(reply: Vec<u8>) -> Vec<u8> {
    assert_eq!(number(&reply), 0, "{}", describe_reply(&reply));
    reply
}

fn describe_reply(reply: &[u8]) -> String {
    match number(reply) {
        0 => "accepted".into(),
        n => format!("{n}: {}", detail(reply)),
    }
}

/// The results of an accepted answer.
pub fn results(reply: &[u8]) -> Reader<'_> {
    let mut reader = Reader::new(reply);
    reader.array("reply", 1, 16).unwrap();
    assert_eq!(reader.uint("status").unwrap(), 0);
    reader
}

impl World {
    /// Three owners with 4, 20,000 and 7,282 records of 9 bytes: files of 1, 3 and 2 chunks, the last one of one byte over.
    pub fn new() -> Self {
        let parties = vec![
            Party::new("A", "owner", 101),
            Party::new("B", "owner", 102),
            Party::new("C", "owner", 103),
            Party::new("R", "researcher", 104),
        ];
        let files = vec![
            SealedFile::new(&parties[0].data_key, 4, 0),
            SealedFile::new(&parties[1].data_key, 20_000, 1),
            SealedFile::new(&parties[2].data_key, 7_282, 2),
        ];
        let measurement = sha256(b"image");
        let (job, seen, entropy, platform) = start(1);
        let facts = HashEngine::new(RECORD_BYTES, STEPS).facts.clone();
        let draft = Draft::new(&parties, &files, &facts, &measurement);
        Self {
            job,
            seen,
            entropy,
            platform,
            parties,
            files,
            draft,
            measurement,
        }
    }

    pub fn send(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.job.handle(&request.write())
    }

    pub fn launch(&mut self) -> Vec<u8> {
        let measurement = self.measurement;
        self.send(&Request::Launch {
            measurement: &measurement,
            threads: 2,
        })
    }

    pub fn keys(&mut self) -> BootKeys {
        let reply = accepted(self.send(&Request::Describe));
        let mut r = results(&reply);
        BootKeys {
            hpke: *r.fixed("hpke").unwrap(),
            signing: *r.fixed("signing").unwrap(),
        }
    }

    pub fn state(&self) -> &'static str {
        self.job.state_name()
    }

    pub fn contract(&self) -> Digest {
        sha256(&self.draft.bytes())
    }

    pub fn bind_signed_by(&mut self, edit: impl FnOnce(&mut Vec<Option<Vec<u8>>>)) -> Vec<u8> {
        let contract = self.draft.bytes();
        let mut list: Vec<_> = signatures(&self.parties, &contract)
            .into_iter()
            .map(Some)
            .collect();
        edit(&mut list);
        let signatures = list.iter().map(|s| s.as_deref()).collect();
        self.send(&Request::Contract {
            contract: &contract,
            signatures,
        })
    }

    pub fn bind(&mut self) -> Vec<u8> {
        self.bind_signed_by(|_| {})
    }

    pub fn sealed_grant(&mut self, owner: usize, resume: bool) -> Vec<u8> {
        let keys = self.keys();
        let place = Place {
            contract: &self.contract(),
            measurement: &self.measurement,
            boot: &keys.boot_id(),
            hpke_key: &keys.hpke,
        };
        self.parties[owner].grant(owner, &place, resume)
    }

    pub fn grant(&mut self, owner: usize, resume: bool) -> Vec<u8> {
        let sealed = self.sealed_grant(owner, resume);
        self.send(&Request::Grant {
            party: owner as u64,
            sealed: &sealed,
        })
    }

    pub fn grant_all(&mut self, resume: bool) {
        for owner in 0..3 {
            accepted(self.grant(owner, resume));
        }
    }

    /// The run, and per owner the sealed deposit.
    pub fn shares(&mut self) -> (Digest, Vec<(usize, Vec<u8>)>) {
        let reply = accepted(self.send(&Request::Shares));
        let mut r = results(&reply);
        let run = *r.fixed("run").unwrap();
        let count = r.array("list", 0, 32).unwrap();
        let list = (0..count).map(|_| {
            r.array("deposit", 3, 3).unwrap();
            let party = r.uint("party").unwrap() as usize;
            let sealed = r.bytes("sealed", 0, 4096).unwrap().to_vec();
            r.bytes("signature", 0, 4096).unwrap();
            (party, sealed)
        });
        (run, list.collect())
    }

    pub fn deposit_all(&mut self) {
        let (run, list) = self.shares();
        let contract = self.contract();
        for (party, sealed) in list {
            let receipt = self.parties[party].store(party, &contract, &run, &sealed);
            accepted(self.send(&Request::Deposited {
                party: party as u64,
                receipt: &receipt,
            }));
        }
    }

    pub fn begin(&mut self, dataset: usize) -> Vec<u8> {
        let header = self.files[dataset].prefix.clone();
        self.send(&Request::DataBegin {
            dataset: dataset as u64,
            header: &header,
        })
    }

    pub fn chunk(&mut self, dataset: usize, chunk: usize) -> Vec<u8> {
        let ciphertext = self.files[dataset].chunks[chunk].clone();
        self.send(&Request::DataChunk {
            chunk: chunk as u64,
            ciphertext: &ciphertext,
        })
    }

    pub fn load(&mut self, dataset: usize) {
        accepted(self.begin(dataset));
        for chunk in 0..self.files[dataset].chunks.len() {
            accepted(self.chunk(dataset, chunk));
        }
    }

    pub fn train(&mut self, steps: u64) -> Vec<u8> {
        self.send(&Request::Train { steps })
    }

    pub fn release(&mut self) -> Vec<Vec<u8>> {
        let reply = accepted(self.send(&Request::Release));
        let mut r = results(&reply);
        let count = r.array("lengths", 0, 64).unwrap();
        let lengths: Vec<u64> = (0..count).map(|_| r.uint("length").unwrap()).collect();
        lengths
            .into_iter()
            .enumerate()
            .map(|(output, length)| {
                let reply = accepted(self.send(&Request::Fetch {
                    output: output as u64,
                    offset: 0,
                    length,
                }));
                results(&reply)
                    .bytes("output", 0, 1 << 20)
                    .unwrap()
                    .to_vec()
            })
            .collect()
    }

    /// Up to and with all grants.
    pub fn admitted() -> Self {
        let mut world = Self::new();
        accepted(world.launch());
        accepted(world.bind());
        world.grant_all(false);
        world
    }

    /// Up to the point where training may begin.
    pub fn ready() -> Self {
        let mut world = Self::admitted();
        world.deposit_all();
        (0..3).for_each(|i| world.load(i));
        world
    }

    /// The same parties, files and contract around a new boot, as after a kill.
    pub fn reboot(self, seed: u64) -> Self {
        let (job, seen, entropy, platform) = start(seed);
        Self {
            job,
            seen,
            entropy,
            platform,
            ..self
        }
    }

    /// From launch to release.
    pub fn whole_run(&mut self, resume: bool) -> Vec<Vec<u8>> {
        accepted(self.launch());
        accepted(self.bind());
        self.grant_all(resume);
        if !resume {
            self.deposit_all();
        }
        (0..3).for_each(|i| self.load(i));
        while self.state() != "trained" {
            accepted(self.train(2));
        }
        self.release()
    }
}
