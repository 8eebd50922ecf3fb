//! Entropy from a seed, which tests may break.

use std::cell::Cell;
use std::rc::Rc;

use myelin_wire::{Code, Entropy, Error, sha256};

/// SHA-256 in counter mode. Clones share the switch, not the position.
#[derive(Clone, Debug)]
pub struct SeededEntropy {
    seed: u64,
    counter: u64,
    pub broken: Rc<Cell<bool>>,
}

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            counter: 0,
            broken: Rc::default(),
        }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        if self.broken.get() {
            return Err(Error::new(Code::EntropyFailed, "broken for the test"));
        }
        for chunk in out.chunks_mut(32) {
            let block = sha256(&[self.seed.to_le_bytes(), self.counter.to_le_bytes()].concat());
            self.counter += 1;
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}
