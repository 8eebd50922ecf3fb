//! Who makes this image's evidence: chosen when it is built, and so measured.

use myelin_wire::Error;

use crate::Processor;

#[cfg(feature = "simulated")]
pub(crate) use myelin_simulated::SimulatedAttester as Attester;

/// Draws the simulated attester's key.
#[cfg(feature = "simulated")]
pub(crate) fn attester(entropy: &mut Processor) -> Result<Attester, Error> {
    Attester::start(entropy)
}

#[cfg(not(feature = "simulated"))]
mod none {
    use alloc::vec::Vec;
    use myelin_wire::{Code, Error};

    /// Stands where no attester was built in: makes no evidence.
    pub(crate) struct Attester;

    impl myelin_wire::Attester for Attester {
        fn evidence(&mut self, _: &[u8; 64]) -> Result<Vec<u8>, Error> {
            Err(Error::new(
                Code::EvidenceRefused,
                "this image was built without an attester",
            ))
        }
    }
}

#[cfg(not(feature = "simulated"))]
pub(crate) use none::Attester;

/// Nothing to draw.
#[cfg(not(feature = "simulated"))]
pub(crate) fn attester(_: &mut Processor) -> Result<Attester, Error> {
    Ok(Attester)
}
