//! The contract, protocol section 2: read from its exact bytes, with every rule of its form checked.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use crate::cose::{CONTRACT_TYPE, Verifier};
use crate::digest::{Digest, sha256};
use crate::limits::{
    CONTRACT_BYTES_MAX, NAME_BYTES_MAX, PARTIES_MAX, PARTIES_MIN, RECORDS_MAX, SEALING_KEY_BYTES,
    SIGNING_KEY_BYTES,
};
use crate::{Code, DpEvent, Error, Reader};

/// What a party is in a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Owns one dataset.
    Owner,
    /// Owns none; there is exactly one.
    Researcher,
}

/// A party and its keys. Its party id is its index in [`Contract::parties`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Owner or researcher.
    pub role: Role,
    /// P-256, uncompressed SEC1, on the curve.
    pub signing_key: [u8; SIGNING_KEY_BYTES],
    /// X-Wing public key, not yet checked to be one.
    pub sealing_key: Box<[u8; SEALING_KEY_BYTES]>,
}

/// A dataset as the contract names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Party id of its owner.
    pub owner: usize,
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// Digest of its schema.
    pub schema: Digest,
    /// How many records it has.
    pub records: u64,
}

/// What all parties signed, without what only people and brokers use (names, budgets and expiry are checked in form).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// SHA-256 of the contract's bytes.
    pub digest: Digest,
    /// Measurement of the image.
    pub measurement: Digest,
    /// Digest of the image's plan.
    pub plan: Digest,
    /// Everyone, by party id.
    pub parties: Vec<Party>,
    /// One per owner, in order of party id.
    pub datasets: Vec<Dataset>,
    /// The planned mechanism.
    pub event: DpEvent,
    /// Party ids that get the sealed model, ascending.
    pub recipients: Vec<usize>,
    /// Whether the certificate says the records per owner.
    pub release_records: bool,
    /// Whether the certificate says how many contributions were not finite.
    pub release_nonfinite: bool,
    /// Digest of the appraisal policy.
    pub policy: Digest,
}

const KEYS: &[&str] = &[
    "name",
    "plan",
    "event",
    "policy",
    "anchors",
    "budgets",
    "parties",
    "version",
    "datasets",
    "expires_s",
    "recipients",
    "measurement",
    "release_records",
    "release_nonfinite",
];
const ANCHORS: &[&str] = &["log", "tpm", "witnesses"];
const PARTY_KEYS: &[&str] = &["name", "role", "sealing_key", "signing_key"];
const DATASET_KEYS: &[&str] = &["owner", "digest", "schema", "records"];
const BUDGET_KEYS: &[&str] = &["owner", "delta_e15", "epsilon_e6"];

fn malformed(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::ContractMalformed, detail)
}

impl Contract {
    /// Reads a contract from its exact bytes and checks its form; signatures and meaning come after.
    ///
    /// # Errors
    /// `oversized_message`, `unknown_field`, `contract_malformed`.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > CONTRACT_BYTES_MAX {
            return Err(Error::new(
                Code::OversizedMessage,
                format!(
                    "contract: expected at most {CONTRACT_BYTES_MAX} bytes, got {}",
                    bytes.len()
                ),
            ));
        }
        let mut reader = Reader::new(bytes);
        let contract = read_fields(&mut reader, sha256(bytes))
            .and_then(|contract| reader.finish().map(|()| contract));
        let contract = contract.map_err(|error| match error.code {
            Code::MalformedMessage => malformed(error.detail),
            _ => error,
        })?;
        contract.check()?;
        Ok(contract)
    }

    /// The party ids of the owners, ascending.
    pub fn owners(&self) -> impl Iterator<Item = usize> + '_ {
        self.datasets.iter().map(|dataset| dataset.owner)
    }

    /// Records of all datasets together.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.datasets.iter().map(|dataset| dataset.records).sum()
    }

    /// Checks that every party has signed exactly `bytes`, from which this contract was read.
    ///
    /// # Errors
    /// `signature_missing` or `signature_invalid`, naming the first such party id.
    pub fn verify(&self, bytes: &[u8], signatures: &[Option<&[u8]>]) -> Result<(), Error> {
        if signatures.len() > self.parties.len() {
            return Err(malformed(format!(
                "expected {} signatures, got {}",
                self.parties.len(),
                signatures.len()
            )));
        }
        for (id, party) in self.parties.iter().enumerate() {
            let signature = signatures.get(id).copied().flatten().ok_or_else(|| {
                Error::new(Code::SignatureMissing, format!("party {id} has not signed"))
            })?;
            Verifier::new(&party.signing_key)?
                .verify_detached(CONTRACT_TYPE, signature, bytes)
                .map_err(|error| {
                    Error::new(
                        error.code,
                        format!("signature of party {id}: {}", error.detail),
                    )
                })?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        let researchers = self
            .parties
            .iter()
            .filter(|p| p.role == Role::Researcher)
            .count();
        if researchers != 1 {
            return Err(malformed(format!(
                "expected one researcher, got {researchers}"
            )));
        }
        for (id, party) in self.parties.iter().enumerate() {
            if self
                .parties
                .iter()
                .skip(id + 1)
                .any(|p| p.signing_key == party.signing_key)
            {
                return Err(malformed(format!(
                    "the signing key of party {id} occurs twice"
                )));
            }
        }
        let owners = self
            .parties
            .iter()
            .enumerate()
            .filter(|(_, p)| p.role == Role::Owner)
            .map(|(id, _)| id);
        if !owners.eq(self.owners()) {
            return Err(malformed(
                "datasets: expected one per owner, in order of party id",
            ));
        }
        if self.records() != self.event.dataset_size {
            return Err(malformed(format!(
                "event.dataset_size: expected the sum of records, {}, got {}",
                self.records(),
                self.event.dataset_size
            )));
        }
        if self.recipients.iter().any(|id| *id >= self.parties.len()) {
            return Err(malformed("recipients: a party id that does not exist"));
        }
        if !self.recipients.is_sorted_by(|a, b| a < b) {
            return Err(malformed(
                "recipients: expected ascending party ids, once each",
            ));
        }
        Ok(())
    }
}

fn read_fields(reader: &mut Reader<'_>, digest: Digest) -> Result<Contract, Error> {
    reader.map("contract", KEYS)?;
    reader.key("name", KEYS)?;
    reader.text("name", 1, NAME_BYTES_MAX)?;
    reader.key("plan", KEYS)?;
    let plan = *reader.fixed("plan")?;
    reader.key("event", KEYS)?;
    let event = DpEvent::read(reader)?;
    reader.key("policy", KEYS)?;
    let policy = *reader.fixed("policy")?;
    reader.key("anchors", KEYS)?;
    check_anchors(reader)?;
    reader.key("budgets", KEYS)?;
    let budgets = read_budgets(reader)?;
    reader.key("parties", KEYS)?;
    let parties = read_parties(reader)?;
    reader.key("version", KEYS)?;
    reader.uint_within("version", 2, 2)?;
    reader.key("datasets", KEYS)?;
    let datasets = read_datasets(reader)?;
    reader.key("expires_s", KEYS)?;
    reader.uint("expires_s")?;
    reader.key("recipients", KEYS)?;
    let count = reader.array("recipients", 1, PARTIES_MAX)?;
    let recipients = (0..count)
        .map(|_| party_id(reader, "recipients"))
        .collect::<Result<_, _>>()?;
    reader.key("measurement", KEYS)?;
    let measurement = *reader.fixed("measurement")?;
    reader.key("release_records", KEYS)?;
    let release_records = reader.bool("release_records")?;
    reader.key("release_nonfinite", KEYS)?;
    let release_nonfinite = reader.bool("release_nonfinite")?;
    if !budgets
        .iter()
        .copied()
        .eq(datasets.iter().map(|dataset| dataset.owner))
    {
        return Err(malformed(
            "budgets: expected one per owner, in order of party id",
        ));
    }
    Ok(Contract {
        digest,
        measurement,
        plan,
        parties,
        datasets,
        event,
        recipients,
        release_records,
        release_nonfinite,
        policy,
    })
}

/// Which anchors the brokers use is theirs to check; here only the form.
fn check_anchors(reader: &mut Reader<'_>) -> Result<(), Error> {
    let count = reader.array("anchors", 0, ANCHORS.len())?;
    let mut before = None;
    for _ in 0..count {
        let name = reader.text("anchor", 1, 16)?;
        let place = ANCHORS.iter().position(|known| *known == name);
        if place.is_none() || place <= before {
            return Err(malformed(
                "anchors: expected log, tpm, witnesses, in this order",
            ));
        }
        before = place;
    }
    Ok(())
}

fn party_id(reader: &mut Reader<'_>, field: &str) -> Result<usize, Error> {
    // Below 32, so the conversion never saturates.
    let id = reader.uint_within(field, 0, PARTIES_MAX as u64 - 1)?;
    Ok(usize::try_from(id).unwrap_or(usize::MAX))
}

fn read_parties(reader: &mut Reader<'_>) -> Result<Vec<Party>, Error> {
    let count = reader.array("parties", PARTIES_MIN, PARTIES_MAX)?;
    let mut parties = Vec::with_capacity(count);
    let mut names = Vec::with_capacity(count);
    for _ in 0..count {
        reader.map("party", PARTY_KEYS)?;
        reader.key("name", PARTY_KEYS)?;
        let name = reader.text("party name", 1, NAME_BYTES_MAX)?;
        if names.contains(&name) {
            return Err(malformed("parties: a name that occurs twice"));
        }
        names.push(name);
        reader.key("role", PARTY_KEYS)?;
        let role = match reader.text("role", 0, 16)? {
            "owner" => Role::Owner,
            "researcher" => Role::Researcher,
            _ => return Err(malformed("role: expected owner or researcher")),
        };
        reader.key("sealing_key", PARTY_KEYS)?;
        let sealing_key = Box::new(*reader.fixed("sealing_key")?);
        reader.key("signing_key", PARTY_KEYS)?;
        let signing_key = *reader.fixed("signing_key")?;
        Verifier::new(&signing_key)?;
        parties.push(Party {
            role,
            signing_key,
            sealing_key,
        });
    }
    Ok(parties)
}

fn read_datasets(reader: &mut Reader<'_>) -> Result<Vec<Dataset>, Error> {
    let count = reader.array("datasets", 1, PARTIES_MAX)?;
    let mut datasets = Vec::with_capacity(count);
    for _ in 0..count {
        reader.map("dataset", DATASET_KEYS)?;
        reader.key("owner", DATASET_KEYS)?;
        let owner = party_id(reader, "dataset owner")?;
        reader.key("digest", DATASET_KEYS)?;
        let digest = *reader.fixed("digest")?;
        reader.key("schema", DATASET_KEYS)?;
        let schema = *reader.fixed("schema")?;
        reader.key("records", DATASET_KEYS)?;
        let records = reader.uint_within("records", 1, RECORDS_MAX)?;
        datasets.push(Dataset {
            owner,
            digest,
            schema,
            records,
        });
    }
    Ok(datasets)
}

fn read_budgets(reader: &mut Reader<'_>) -> Result<Vec<usize>, Error> {
    let count = reader.array("budgets", 1, PARTIES_MAX)?;
    let mut owners = Vec::with_capacity(count);
    for _ in 0..count {
        reader.map("budget", BUDGET_KEYS)?;
        reader.key("owner", BUDGET_KEYS)?;
        owners.push(party_id(reader, "budget owner")?);
        reader.key("delta_e15", BUDGET_KEYS)?;
        reader.uint("delta_e15")?;
        reader.key("epsilon_e6", BUDGET_KEYS)?;
        reader.uint("epsilon_e6")?;
    }
    Ok(owners)
}
