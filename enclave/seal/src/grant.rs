//! What brokers and enclave seal for each other: grants and deposits, protocol section 4.

use alloc::vec::Vec;

use myelin_wire::limits::SEALED_GRANT_BYTES_MAX;
use myelin_wire::{Code, Digest, Entropy, Error, Reader, Writer};
use zeroize::Zeroizing;

use crate::{OpeningKey, SealingKey, Secret};

const GRANT_KEYS: &[&str] = &["run", "mode", "check", "share", "data_key"];

/// What a grant or a deposit is bound to.
#[derive(Clone, Copy, Debug)]
pub struct GrantPlace<'a> {
    /// The contract's digest.
    pub contract: &'a Digest,
    /// The image's measurement.
    pub measurement: &'a Digest,
    /// The boot that it is for.
    pub boot: &'a Digest,
    /// The owner's party id.
    pub party: usize,
}

impl GrantPlace<'_> {
    /// `info` of the grant.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        Writer::info("myelin/grant/v1", 4)
            .bytes(self.contract)
            .bytes(self.measurement)
            .bytes(self.boot)
            .uint(self.party as u64)
            .finish()
    }
}

/// What an owner's broker gives to one boot.
#[derive(Debug)]
pub struct Grant {
    /// Opens the owner's dataset.
    pub data_key: Secret,
    /// What it gives of an earlier run; nothing for a fresh one.
    pub resume: Option<Resume>,
}

/// What an owner's broker keeps of a run.
#[derive(Debug)]
pub struct Resume {
    /// The run: boot id of the boot that drew the job key.
    pub run: Digest,
    /// One share of the job key.
    pub share: Secret,
    /// What tells that all shares are right.
    pub check: Secret,
}

impl Grant {
    /// Opens a grant for this boot.
    ///
    /// # Errors
    /// `grant_unsealable` for one that does not open, or is not of its form.
    pub fn open(key: &OpeningKey, place: &GrantPlace<'_>, sealed: &[u8]) -> Result<Self, Error> {
        if sealed.len() > SEALED_GRANT_BYTES_MAX {
            return Err(Error::new(Code::GrantUnsealable, "too long"));
        }
        let plain = key.open(&place.info(), sealed).map_err(|_| {
            Error::new(
                Code::GrantUnsealable,
                "sealed for another boot, contract, image or party",
            )
        })?;
        // The detail of a reading error names fields of a secret document, never their values; even so it stays inside.
        Self::read(&plain)
            .map_err(|_| Error::new(Code::GrantUnsealable, "opened, but is not of its form"))
    }

    fn read(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(plain);
        reader.map("grant", GRANT_KEYS)?;
        reader.key("run", GRANT_KEYS)?;
        let run = reader.fixed_or_nil("run")?;
        reader.key("mode", GRANT_KEYS)?;
        let mode = reader.text("mode", 0, 16)?;
        reader.key("check", GRANT_KEYS)?;
        let check = reader.fixed_or_nil("check")?;
        reader.key("share", GRANT_KEYS)?;
        let share = reader.fixed_or_nil("share")?;
        reader.key("data_key", GRANT_KEYS)?;
        let data_key = Secret::copied_from(reader.fixed("data_key")?);
        reader.finish()?;
        let resume = match (mode, run, share, check) {
            ("fresh", None, None, None) => None,
            ("resume", Some(run), Some(share), Some(check)) => Some(Resume {
                run: *run,
                share: Secret::copied_from(share),
                check: Secret::copied_from(check),
            }),
            _ => {
                return Err(Error::new(
                    Code::MalformedMessage,
                    "grant: mode and fields do not agree",
                ));
            }
        };
        Ok(Self { data_key, resume })
    }

    /// Seals a grant, as a broker does.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn seal(
        &self,
        key: &SealingKey,
        place: &GrantPlace<'_>,
        entropy: &mut impl Entropy,
    ) -> Result<Vec<u8>, Error> {
        let resume = self.resume.as_ref();
        let plain = Writer::with_capacity(512)
            .map(GRANT_KEYS.len())
            .text("run")
            .bytes_or_nil(resume.map(|r| r.run.as_slice()))
            .text("mode")
            .text(if resume.is_some() { "resume" } else { "fresh" })
            .text("check")
            .bytes_or_nil(resume.map(|r| r.check.expose().as_slice()))
            .text("share")
            .bytes_or_nil(resume.map(|r| r.share.expose().as_slice()))
            .text("data_key")
            .bytes(self.data_key.expose())
            .finish();
        let plain = Zeroizing::new(plain);
        key.seal(&place.info(), &plain, entropy)
    }
}

/// Seals one owner's share for its broker to keep.
///
/// # Errors
/// `entropy_failed`.
pub fn seal_deposit(
    key: &SealingKey,
    contract: &Digest,
    party: usize,
    deposit: &Resume,
    entropy: &mut impl Entropy,
) -> Result<Vec<u8>, Error> {
    let info = Writer::info("myelin/share/v1", 3)
        .bytes(contract)
        .bytes(&deposit.run)
        .uint(party as u64)
        .finish();
    let plain = Writer::with_capacity(256)
        .map(3)
        .text("run")
        .bytes(&deposit.run)
        .text("check")
        .bytes(deposit.check.expose())
        .text("share")
        .bytes(deposit.share.expose())
        .finish();
    key.seal(&info, &Zeroizing::new(plain), entropy)
}

/// Seals the model for one recipient, and puts it in its file form: the array
/// `["myelin-sealed-model", contract digest, run, party id, sealed bytes]`.
///
/// # Errors
/// `entropy_failed`.
pub fn seal_model(
    key: &SealingKey,
    contract: &Digest,
    run: &Digest,
    party: usize,
    model: &[u8],
    entropy: &mut impl Entropy,
) -> Result<Vec<u8>, Error> {
    let info = Writer::info("myelin/model/v1", 3)
        .bytes(contract)
        .bytes(run)
        .uint(party as u64)
        .finish();
    let sealed = key.seal(&info, model, entropy)?;
    Ok(Writer::with_capacity(sealed.len() + 128)
        .array(5)
        .text("myelin-sealed-model")
        .bytes(contract)
        .bytes(run)
        .uint(party as u64)
        .bytes(&sealed)
        .finish())
}
