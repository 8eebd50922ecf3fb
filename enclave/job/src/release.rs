//! The one gate: what leaves the enclave is made here, once, and then only read.

use alloc::format;
use alloc::vec::Vec;

use myelin_seal::{SealingKey, seal_model};
use myelin_wire::{
    Certificate, Code, Contract, Digest, DpEvent, Engine, Entropy, Error, PlanFacts, SealedModel,
    bundle, sha256,
};
use zeroize::Zeroizing;

use crate::boot::Boot;

/// The certificate bundle, then one sealed model per recipient. Asking again reads the same bytes.
#[derive(Debug)]
pub(crate) struct Release {
    /// Until there is evidence for it; nothing is read before.
    certificate: Option<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// What a release is made of.
pub(crate) struct Ingredients<'a> {
    pub(crate) boot: &'a Boot,
    pub(crate) contract: &'a Contract,
    pub(crate) sealing_keys: &'a [SealingKey],
    pub(crate) facts: &'a PlanFacts,
    pub(crate) run: &'a Digest,
}

impl Ingredients<'_> {
    /// Seals the model for each recipient of the contract, and certifies what was done.
    pub(crate) fn release(
        &self,
        engine: &impl Engine,
        entropy: &mut impl Entropy,
    ) -> Result<Release, Error> {
        let contract = self.contract;
        let model = Zeroizing::new(engine.model()?);
        let mut sealed_models = Vec::with_capacity(contract.recipients.len());
        let mut outputs = Vec::with_capacity(contract.recipients.len() + 1);
        outputs.push(Vec::new());
        for recipient in contract.recipients.iter().copied() {
            let key = self
                .sealing_keys
                .get(recipient)
                .ok_or_else(|| Error::new(Code::NotAParty, "no sealing key for a recipient"))?;
            let sealed = seal_model(key, &contract.digest, self.run, recipient, &model, entropy)?;
            sealed_models.push(SealedModel {
                recipient,
                digest: sha256(&sealed),
            });
            outputs.push(sealed);
        }
        let certificate = Certificate {
            measurement: &self.boot.measurement,
            contract: &contract.digest,
            plan: &self.facts.plan_digest,
            run: self.run,
            keys: &self.boot.keys,
            event: &DpEvent::of(self.facts, contract.records()),
            model: &sha256(&model),
            sealed_models: &sealed_models,
            records: contract.release_records.then(|| {
                contract
                    .datasets
                    .iter()
                    .map(|dataset| dataset.records)
                    .collect()
            }),
            nonfinite: contract.release_nonfinite.then(|| engine.nonfinite()),
        }
        .sign(&self.boot.signer);
        Ok(Release {
            certificate: Some(certificate),
            outputs,
        })
    }
}

impl Release {
    /// The certificate, where it has no evidence yet.
    pub(crate) fn without_evidence(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Puts evidence beside the certificate, once.
    pub(crate) fn complete(&mut self, evidence: &[u8]) {
        if let (Some(certificate), Some(first)) =
            (self.certificate.take(), self.outputs.first_mut())
        {
            *first = bundle(&certificate, evidence);
        }
    }

    /// Whether everything is there that is to be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.certificate.is_none()
    }

    /// Bytes of each output.
    pub(crate) fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.outputs.iter().map(Vec::len)
    }

    /// At most `length` bytes of an output from `offset` on; fewer at its end.
    pub(crate) fn fetch(&self, output: u64, offset: u64, length: u64) -> Result<&[u8], Error> {
        let refused = |detail| Error::new(Code::MalformedMessage, detail);
        let bytes = usize::try_from(output)
            .ok()
            .and_then(|output| self.outputs.get(output))
            .ok_or_else(|| {
                refused(format!(
                    "expected an output below {}, got {output}",
                    self.outputs.len()
                ))
            })?;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..))
            .ok_or_else(|| {
                refused(format!(
                    "output {output}: expected an offset up to {}, got {offset}",
                    bytes.len()
                ))
            })?;
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        Ok(rest.get(..length).unwrap_or(rest))
    }
}
