//! The certificate, protocol section 9, and the CMW record (RFC 9999) that evidence comes in.

use alloc::vec::Vec;

use crate::cose::{CERTIFICATE_TYPE, Signer};
use crate::digest::{BootKeys, Digest};
use crate::{DpEvent, Writer};

/// A sealed model as the certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedModel {
    /// Party id of the recipient.
    pub recipient: usize,
    /// SHA-256 of the sealed model's file.
    pub digest: Digest,
}

/// What the enclave says it did.
#[derive(Clone, Debug)]
pub struct Certificate<'a> {
    /// The image's measurement.
    pub measurement: &'a Digest,
    /// The contract's digest.
    pub contract: &'a Digest,
    /// The plan's digest.
    pub plan: &'a Digest,
    /// The run: boot id of the boot that drew the job key.
    pub run: &'a Digest,
    /// The keys of the boot that finished.
    pub keys: &'a BootKeys,
    /// The mechanism as executed.
    pub event: &'a DpEvent,
    /// SHA-256 of the plain model.
    pub model: &'a Digest,
    /// The sealed models, in order of recipient.
    pub sealed_models: &'a [SealedModel],
    /// Records per dataset, if the contract releases them.
    pub records: Option<Vec<u64>>,
    /// Contributions that were not finite, if the contract releases their number.
    pub nonfinite: Option<u64>,
}

impl Certificate<'_> {
    /// The COSE_Sign1 by this boot's signing key.
    #[must_use]
    pub fn sign(&self, signer: &Signer) -> Vec<u8> {
        signer.sign(CERTIFICATE_TYPE, &self.payload())
    }

    fn payload(&self) -> Vec<u8> {
        let writer = Writer::with_capacity(4096)
            .map(12)
            .text("run")
            .bytes(self.run)
            .text("plan")
            .bytes(self.plan)
            .text("event");
        let mut writer = self
            .event
            .write(writer)
            .text("model")
            .bytes(self.model)
            .text("records");
        writer = match &self.records {
            None => writer.nil(),
            Some(records) => records
                .iter()
                .fold(writer.array(records.len()), |list, count| list.uint(*count)),
        };
        writer = writer
            .text("version")
            .uint(1)
            .text("contract")
            .bytes(self.contract)
            .text("hpke_key")
            .bytes(&self.keys.hpke)
            .text("nonfinite");
        writer = match self.nonfinite {
            None => writer.nil(),
            Some(count) => writer.uint(count),
        };
        writer = writer
            .text("measurement")
            .bytes(self.measurement)
            .text("signing_key")
            .bytes(&self.keys.signing)
            .text("sealed_models")
            .array(self.sealed_models.len());
        for model in self.sealed_models {
            writer = writer
                .map(2)
                .text("digest")
                .bytes(&model.digest)
                .text("recipient")
                .uint(model.recipient as u64);
        }
        writer.finish()
    }
}

/// The bundle file: certificate and the evidence that its signing key belongs to an enclave.
#[must_use]
pub fn bundle(certificate: &[u8], evidence: &[u8]) -> Vec<u8> {
    Writer::with_capacity(certificate.len() + evidence.len() + 64)
        .array(3)
        .text("myelin-certificate")
        .bytes(certificate)
        .bytes(evidence)
        .finish()
}

/// A CMW record: `[media type, bytes]`.
#[must_use]
pub fn cmw(media_type: &str, value: &[u8]) -> Vec<u8> {
    Writer::with_capacity(value.len() + 128)
        .array(2)
        .text(media_type)
        .bytes(value)
        .finish()
}
