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
mod platform {
    use myelin_boundary::myelin_report_data;
    use myelin_wire::{Error, Evidence};

    /// Has what runs the image make evidence: it alone has the hardware. What it is to be made for lies where the host
    /// cannot write.
    pub(crate) struct Attester;

    impl myelin_wire::Attester for Attester {
        fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, Error> {
            myelin_report_data.want(report_data);
            Ok(Evidence::Ask)
        }

        fn settled(&mut self) {
            myelin_report_data.want(&[0; 64]);
        }
    }
}

#[cfg(not(feature = "simulated"))]
pub(crate) use platform::Attester;

/// Nothing to draw.
#[cfg(not(feature = "simulated"))]
pub(crate) fn attester(_: &mut Processor) -> Result<Attester, Error> {
    Ok(Attester)
}
