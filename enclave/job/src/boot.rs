//! One boot: the keys that are drawn at launch, and evidence for them.

use alloc::vec::Vec;

use myelin_seal::OpeningKey;
use myelin_wire::cose::Signer;
use myelin_wire::{Attester, BootKeys, Contract, Digest, Entropy, Error, Purpose, Report};

/// What is drawn at launch and never leaves: two private keys, and who they make this boot.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) measurement: Digest,
    pub(crate) opening: OpeningKey,
    pub(crate) signer: Signer,
    pub(crate) keys: BootKeys,
    pub(crate) id: Digest,
}

impl Boot {
    /// Draws the keys.
    pub(crate) fn launch(measurement: &Digest, entropy: &mut impl Entropy) -> Result<Self, Error> {
        let opening = OpeningKey::generate(entropy)?;
        let signer = Signer::generate(entropy)?;
        let keys = BootKeys {
            hpke: *opening.public_key(),
            signing: signer.public_key(),
        };
        let id = keys.boot_id();
        Ok(Self {
            measurement: *measurement,
            opening,
            signer,
            keys,
            id,
        })
    }

    /// Evidence for a broker, or for the certificate.
    pub(crate) fn evidence(
        &self,
        attester: &mut impl Attester,
        purpose: Purpose,
        nonce: &Digest,
        contract: &Contract,
        policy: &Digest,
    ) -> Result<Vec<u8>, Error> {
        let report = Report {
            purpose,
            nonce,
            keys: &self.keys,
            measurement: &self.measurement,
            contract: &contract.digest,
            policy,
        };
        attester.evidence(&report.data())
    }
}
