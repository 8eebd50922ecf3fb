//! Hashes and the identities of the protocol, section 1 and 3.

use sha2::{Digest as _, Sha256, Sha512};

use crate::Writer;
use crate::limits::{DIGEST_BYTES, REPORT_DATA_BYTES, SEALING_KEY_BYTES, SIGNING_KEY_BYTES};

/// A SHA-256 digest, or anything of the protocol that has its size: a nonce, a boot id, a run.
pub type Digest = [u8; DIGEST_BYTES];

/// SHA-256 of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// SHA-256 of bytes that come in pieces.
#[derive(Clone, Default)]
pub struct RunningDigest(Sha256);

impl core::fmt::Debug for RunningDigest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RunningDigest")
    }
}

impl RunningDigest {
    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}

/// The public keys of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootKeys {
    /// X-Wing public key that grants are sealed to.
    pub hpke: [u8; SEALING_KEY_BYTES],
    /// P-256 public key that deposits and the certificate are signed by, uncompressed SEC1.
    pub signing: [u8; SIGNING_KEY_BYTES],
}

impl BootKeys {
    /// The boot id: `digest(info("myelin/boot/v1", hpke_pk, signing_pk))`.
    #[must_use]
    pub fn boot_id(&self) -> Digest {
        Writer::info("myelin/boot/v1", 2)
            .bytes(&self.hpke)
            .bytes(&self.signing)
            .digest()
    }
}

/// What report data binds, protocol section 3.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Why evidence is made.
    pub purpose: Purpose,
    /// What makes it fresh: the relying party's nonce, or the digest of the certificate's COSE_Sign1.
    pub nonce: &'a Digest,
    /// The keys of this boot.
    pub keys: &'a BootKeys,
    /// The image's measurement.
    pub measurement: &'a Digest,
    /// The contract's digest.
    pub contract: &'a Digest,
    /// The appraisal policy's digest.
    pub policy: &'a Digest,
}

/// Why evidence is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To get a grant from a broker.
    KeyRelease = 0,
    /// To go with the certificate.
    Certificate = 1,
}

impl Report<'_> {
    /// SHA-512 of the deterministic CBOR array that binds everything.
    #[must_use]
    pub fn data(&self) -> [u8; REPORT_DATA_BYTES] {
        let bound = Writer::info("myelin/report/v1", 7)
            .uint(self.purpose as u64)
            .bytes(self.nonce)
            .bytes(&self.keys.hpke)
            .bytes(&self.keys.signing)
            .bytes(self.measurement)
            .bytes(self.contract)
            .bytes(self.policy)
            .finish();
        Sha512::digest(&bound).into()
    }
}
