//! One boot: the keys that are drawn at launch, and evidence for them.

use myelin_seal::OpeningKey;
use myelin_wire::cose::Signer;
use myelin_wire::limits::REPORT_DATA_BYTES;
use myelin_wire::{BootKeys, Contract, Digest, Entropy, Error, Purpose, Report};

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

    /// What evidence for a broker, or for the certificate, is bound to.
    pub(crate) fn report_data(
        &self,
        purpose: Purpose,
        nonce: &Digest,
        contract: &Contract,
        policy: &Digest,
    ) -> [u8; REPORT_DATA_BYTES] {
        Report {
            purpose,
            nonce,
            keys: &self.keys,
            measurement: &self.measurement,
            contract: &contract.digest,
            policy,
        }
        .data()
    }
}
