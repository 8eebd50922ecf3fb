//! Simulated evidence: signed by a key that is drawn at each start, and that nothing vouches for.
//!
//! It is a type of its own, with its own media type, so that no relying party can take it for evidence of hardware. An
//! image for hardware does not link this crate.
#![cfg_attr(not(test), no_std)]

use myelin_wire::cose::Signer;
use myelin_wire::{Attester, Code, Digest, Entropy, Error, Evidence, Writer, cmw};

/// Media type of the evidence, and content type of the COSE_Sign1 that it is.
pub const MEDIA_TYPE: &str = "application/vnd.myelin.simulated-evidence+cbor";

/// Signs whatever it is asked to, with the measurement that the loader told.
#[derive(Debug)]
pub struct SimulatedAttester {
    signer: Signer,
    measurement: Option<Digest>,
}

impl SimulatedAttester {
    /// Draws the key of this start.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn start(entropy: &mut impl Entropy) -> Result<Self, Error> {
        Ok(Self {
            signer: Signer::generate(entropy)?,
            measurement: None,
        })
    }
}

impl Attester for SimulatedAttester {
    fn launched(&mut self, measurement: &Digest) {
        self.measurement = Some(*measurement);
    }

    /// `[media type, COSE_Sign1 over {"key", "measurement", "report_data"}]`.
    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, Error> {
        let measurement = self
            .measurement
            .ok_or_else(|| Error::new(Code::OutOfOrder, "evidence before launch"))?;
        let payload = Writer::with_capacity(512)
            .map(3)
            .text("key")
            .bytes(&self.signer.public_key())
            .text("measurement")
            .bytes(&measurement)
            .text("report_data")
            .bytes(report_data)
            .finish();
        let signed = self.signer.sign(MEDIA_TYPE, &payload);
        Ok(Evidence::Now(cmw(MEDIA_TYPE, &signed)))
    }
}
