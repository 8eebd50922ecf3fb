//! Keys from keys: HKDF-SHA256 (RFC 5869), protocol sections 4, 5 and 8.

use hkdf::Hkdf;
use myelin_wire::{Code, Digest, Error, Writer};
use sha2::Sha256;

use crate::Secret;

const COMMITMENT_LABEL: &str = "myelin/dataset-key/v1";
const CHECK_LABEL: &[u8] = b"myelin/job-key-check/v1";
const SAMPLING_LABEL: &[u8] = b"myelin/sampling/v1";
const NOISE_LABEL: &[u8] = b"myelin/noise/v1";
const DROPOUT_LABEL: &[u8] = b"myelin/dropout/v1";
const AUGMENT_LABEL: &[u8] = b"myelin/augment/v1";

/// `HKDF(key, salt, info)`, 32 bytes.
pub(crate) fn hkdf(key: &Secret, salt: &Digest, info: &[u8]) -> Result<Secret, Error> {
    let mut derived = Secret::copied_from(&[0; 32]);
    // Fails only for outputs above 255 × 32 bytes; were it to, going on with zeros would be the worst of keys.
    Hkdf::<Sha256>::new(Some(salt), key.expose())
        .expand(info, derived.expose_mut())
        .map_err(|_| Error::new(Code::Dead, "HKDF refused 32 bytes"))?;
    Ok(derived)
}

/// What a dataset's header says of its key. Nobody finds two keys with the same.
///
/// # Errors
/// None that can occur: HKDF refuses only long outputs.
pub(crate) fn key_commitment(data_key: &Secret, salt: &Digest) -> Result<Secret, Error> {
    let info = Writer::info(COMMITMENT_LABEL, 0).finish();
    hkdf(data_key, salt, &info)
}

/// What tells whether shares make the right job key, without telling the key.
///
/// # Errors
/// None that can occur: HKDF refuses only long outputs.
pub fn job_key_check(job_key: &Secret, contract: &Digest) -> Result<Secret, Error> {
    hkdf(job_key, contract, CHECK_LABEL)
}

/// What a run is a function of: image, contract, datasets.
#[must_use]
pub fn transcript<'a>(
    measurement: &Digest,
    contract: &Digest,
    datasets: impl ExactSizeIterator<Item = &'a Digest>,
) -> Digest {
    let bound = Writer::info("myelin/transcript/v1", 3)
        .bytes(measurement)
        .bytes(contract)
        .array(datasets.len());
    datasets
        .fold(bound, |list, digest| list.bytes(digest))
        .digest()
}

/// The keys of a run's randomness.
#[derive(Debug)]
pub struct RunKeys {
    /// Which records are drawn.
    pub sampling: Secret,
    /// The noise.
    pub noise: Secret,
    /// Masks of dropout layers.
    pub dropout: Secret,
    /// Views of records.
    pub augment: Secret,
}

impl RunKeys {
    /// Same job key and transcript: same keys. Any other: unrelated ones.
    ///
    /// # Errors
    /// None that can occur: HKDF refuses only long outputs.
    pub fn derive(job_key: &Secret, transcript: &Digest) -> Result<Self, Error> {
        Ok(Self {
            sampling: hkdf(job_key, transcript, SAMPLING_LABEL)?,
            noise: hkdf(job_key, transcript, NOISE_LABEL)?,
            dropout: hkdf(job_key, transcript, DROPOUT_LABEL)?,
            augment: hkdf(job_key, transcript, AUGMENT_LABEL)?,
        })
    }
}
