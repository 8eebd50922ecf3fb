//! Owners, researcher and their brokers, as far as the enclave sees them.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use myelin_seal::{Grant, GrantPlace, MAGIC, OpeningKey, Resume, SealingKey, Secret};
use myelin_wire::cose::{CONTRACT_TYPE, RECEIPT_TYPE, Signer};
use myelin_wire::{Digest, DpEvent, PlanFacts, Reader, Writer, sha256};
use sha2::Sha256;

use super::entropy::SeededEntropy;

pub const RECORD_BYTES: u64 = 9;

/// Run, check and share.
pub type Kept = (Digest, [u8; 32], [u8; 32]);

pub struct Party {
    pub name: &'static str,
    pub role: &'static str,
    pub signer: Signer,
    pub opening: OpeningKey,
    pub signing_key: Vec<u8>,
    pub sealing_key: Vec<u8>,
    pub data_key: [u8; 32],
    /// What the broker keeps of a run, once deposited.
    pub deposit: Option<Kept>,
}

impl Party {
    pub fn new(name: &'static str, role: &'static str, seed: u64) -> Self {
        let mut entropy = SeededEntropy::new(seed);
        let (signer, opening) = (
            Signer::generate(&mut entropy).unwrap(),
            OpeningKey::generate(&mut entropy).unwrap(),
        );
        Self {
            name,
            role,
            signing_key: signer.public_key().to_vec(),
            sealing_key: opening.public_key().to_vec(),
            signer,
            opening,
            data_key: sha256(name.as_bytes()),
            deposit: None,
        }
    }

    pub fn grant(&self, id: usize, world: &Place<'_>, resume: bool) -> Vec<u8> {
        let place = GrantPlace {
            contract: world.contract,
            measurement: world.measurement,
            boot: world.boot,
            party: id,
        };
        let resume = resume.then(|| {
            let (run, check, share) = self.deposit.expect("a deposit to resume from");
            Resume {
                run,
                share: Secret::copied_from(&share),
                check: Secret::copied_from(&check),
            }
        });
        let grant = Grant {
            data_key: Secret::copied_from(&self.data_key),
            resume,
        };
        let key = SealingKey::new(world.hpke_key.try_into().unwrap()).unwrap();
        grant
            .seal(&key, &place, &mut SeededEntropy::new(900 + id as u64))
            .unwrap()
    }

    /// Opens a deposit, keeps it, and signs the receipt, as the owner's broker does.
    pub fn store(&mut self, id: usize, contract: &Digest, run: &Digest, sealed: &[u8]) -> Vec<u8> {
        let info = Writer::info("myelin/share/v1", 3)
            .bytes(contract)
            .bytes(run)
            .uint(id as u64)
            .finish();
        let plain = self.opening.open(&info, sealed).expect("the deposit opens");
        let keys = &["run", "check", "share"];
        let mut reader = Reader::new(&plain);
        reader.map("deposit", keys).unwrap();
        let mut next = |key| {
            reader.key(key, keys).unwrap();
            *reader.fixed::<32>(key).unwrap()
        };
        let kept = (next("run"), next("check"), next("share"));
        reader.finish().unwrap();
        assert_eq!(kept.0, *run);
        self.deposit = Some(kept);
        self.receipt(id, contract, run, sealed)
    }

    pub fn receipt(&self, id: usize, contract: &Digest, run: &Digest, sealed: &[u8]) -> Vec<u8> {
        let payload = Writer::new()
            .array(4)
            .bytes(contract)
            .bytes(run)
            .uint(id as u64)
            .bytes(&sha256(sealed))
            .finish();
        self.signer.sign(RECEIPT_TYPE, &payload)
    }
}

pub struct Place<'a> {
    pub contract: &'a Digest,
    pub measurement: &'a Digest,
    pub boot: &'a Digest,
    pub hpke_key: &'a [u8],
}

/// A sealed file: what stands before the chunks, and the chunks.
#[derive(Clone)]
pub struct SealedFile {
    pub prefix: Vec<u8>,
    pub chunks: Vec<Vec<u8>>,
    pub plain: Vec<u8>,
    pub schema: Digest,
    pub records: u64,
}

impl SealedFile {
    pub fn new(data_key: &[u8; 32], records: u64, tweak: u8) -> Self {
        let plain: Vec<u8> = (0..records * RECORD_BYTES)
            .map(|i| (i % 251) as u8 ^ tweak)
            .collect();
        Self::seal(data_key, records, RECORD_BYTES, &sha256(b"schema"), &plain)
    }

    pub fn seal(
        data_key: &[u8; 32],
        records: u64,
        record_bytes: u64,
        schema: &Digest,
        plain: &[u8],
    ) -> Self {
        let salt = sha256(b"salt");
        let derived = |info: &[u8]| {
            let mut key = [0; 32];
            Hkdf::<Sha256>::new(Some(&salt), data_key)
                .expand(info, &mut key)
                .unwrap();
            key
        };
        let commitment = derived(&Writer::info("myelin/dataset-key/v1", 0).finish());
        let header = Writer::new()
            .map(7)
            .text("salt")
            .bytes(&salt)
            .text("schema")
            .bytes(schema)
            .text("records")
            .uint(records)
            .text("version")
            .uint(1)
            .text("commitment")
            .bytes(&commitment)
            .text("chunk_bytes")
            .uint(65536)
            .text("record_bytes")
            .uint(record_bytes)
            .finish();
        let info = Writer::info("myelin/dataset/v1", 1)
            .bytes(&sha256(&header))
            .finish();
        let cipher = ChaCha20Poly1305::new(&Key::from(derived(&info)));
        let count = plain.len().div_ceil(65536);
        let chunks = plain.chunks(65536).enumerate().map(|(i, chunk)| {
            let mut nonce = [0; 12];
            nonce[7..11].copy_from_slice(&(i as u32).to_be_bytes());
            nonce[11] = u8::from(i + 1 == count);
            let mut sealed = chunk.to_vec();
            let tag = cipher
                .encrypt_inout_detached(&Nonce::from(nonce), &[], sealed.as_mut_slice().into())
                .unwrap();
            sealed.extend_from_slice(&tag);
            sealed
        });
        let chunks = chunks.collect();
        let prefix = [&MAGIC[..], &(header.len() as u32).to_le_bytes(), &header].concat();
        Self {
            prefix,
            chunks,
            plain: plain.to_vec(),
            schema: *schema,
            records,
        }
    }

    pub fn digest(&self) -> Digest {
        sha256(&[self.prefix.clone(), self.chunks.concat()].concat())
    }
}

/// A contract before it is encoded; tests bend single fields.
#[derive(Clone)]
pub struct Draft {
    pub version: u64,
    pub anchors: Vec<&'static str>,
    pub measurement: Vec<u8>,
    pub plan: Vec<u8>,
    pub parties: Vec<(String, String, Vec<u8>, Vec<u8>)>,
    pub datasets: Vec<(u64, Vec<u8>, Vec<u8>, u64)>,
    pub budgets: Vec<u64>,
    pub event: DpEvent,
    pub recipients: Vec<u64>,
    pub release: (bool, bool),
}

impl Draft {
    pub fn new(
        parties: &[Party],
        files: &[SealedFile],
        facts: &PlanFacts,
        measurement: &Digest,
    ) -> Self {
        let owners = parties
            .iter()
            .enumerate()
            .filter(|(_, p)| p.role == "owner")
            .map(|(i, _)| i as u64);
        let datasets: Vec<_> = owners
            .zip(files)
            .map(|(owner, f)| (owner, f.digest().to_vec(), f.schema.to_vec(), f.records))
            .collect();
        Self {
            version: 2,
            anchors: Vec::new(),
            measurement: measurement.to_vec(),
            plan: facts.plan_digest.to_vec(),
            parties: parties
                .iter()
                .map(|p| {
                    (
                        p.name.into(),
                        p.role.into(),
                        p.signing_key.clone(),
                        p.sealing_key.clone(),
                    )
                })
                .collect(),
            budgets: datasets.iter().map(|d| d.0).collect(),
            event: DpEvent::of(facts, files.iter().map(|f| f.records).sum()),
            datasets,
            recipients: vec![0, parties.len() as u64 - 1],
            release: (true, true),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::new()
            .map(14)
            .text("name")
            .text("test")
            .text("plan")
            .bytes(&self.plan)
            .text("event");
        w = self.event.write(w).text("policy").bytes(&sha256(b"policy"));
        w = w.text("anchors").array(self.anchors.len());
        w = self.anchors.iter().fold(w, |w, name| w.text(name));
        w = w.text("budgets").array(self.budgets.len());
        for owner in &self.budgets {
            w = w
                .map(3)
                .text("owner")
                .uint(*owner)
                .text("delta_e15")
                .uint(10_000_000_000);
            w = w.text("epsilon_e6").uint(3_000_000);
        }
        w = w.text("parties").array(self.parties.len());
        for (name, role, signing, sealing) in &self.parties {
            w = w.map(4).text("name").text(name).text("role").text(role);
            w = w
                .text("sealing_key")
                .bytes(sealing)
                .text("signing_key")
                .bytes(signing);
        }
        w = w
            .text("version")
            .uint(self.version)
            .text("datasets")
            .array(self.datasets.len());
        for (owner, digest, schema, records) in &self.datasets {
            w = w
                .map(4)
                .text("owner")
                .uint(*owner)
                .text("digest")
                .bytes(digest);
            w = w
                .text("schema")
                .bytes(schema)
                .text("records")
                .uint(*records);
        }
        w = w
            .text("expires_s")
            .uint(2_000_000_000)
            .text("recipients")
            .array(self.recipients.len());
        w = self.recipients.iter().fold(w, |w, id| w.uint(*id));
        w.text("measurement")
            .bytes(&self.measurement)
            .text("release_records")
            .bool(self.release.0)
            .text("release_nonfinite")
            .bool(self.release.1)
            .finish()
    }
}

pub fn signatures(parties: &[Party], contract: &[u8]) -> Vec<Vec<u8>> {
    parties
        .iter()
        .map(|p| p.signer.sign_detached(CONTRACT_TYPE, contract))
        .collect()
}
