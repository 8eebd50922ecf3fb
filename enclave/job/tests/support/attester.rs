//! An attester that answers itself, as the simulated one does, or has what runs it asked, as that of a hardware image.

use std::cell::Cell;
use std::rc::Rc;

use myelin_simulated::SimulatedAttester;
use myelin_wire::{Attester, Digest, Entropy, Error, Evidence};

#[derive(Debug)]
pub struct TestAttester {
    simulated: SimulatedAttester,
    pub platform: Platform,
}

/// Shared with the test: whether to ask, and what is being asked for.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    pub is_asked: Rc<Cell<bool>>,
    pub wanted: Rc<Cell<Option<[u8; 64]>>>,
}

impl TestAttester {
    pub fn start(entropy: &mut impl Entropy, is_asked: bool) -> Self {
        let platform = Platform::default();
        platform.is_asked.set(is_asked);
        Self {
            simulated: SimulatedAttester::start(entropy).unwrap(),
            platform,
        }
    }
}

impl Attester for TestAttester {
    fn launched(&mut self, measurement: &Digest) {
        self.simulated.launched(measurement);
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, Error> {
        if self.platform.is_asked.get() {
            self.platform.wanted.set(Some(*report_data));
            return Ok(Evidence::Ask);
        }
        self.simulated.evidence(report_data)
    }

    fn settled(&mut self) {
        self.platform.wanted.set(None);
    }
}
