//! Puts the enclave together: the static library that is linked with kernels, plan and parameters into an image.
//!
//! ```text
//! entry (boundary) → handle → Job (job) → TrainingEngine (engine)
//!                                       → SimulatedAttester (simulated, feature `simulated`)
//!                                       → Processor (boundary's random numbers)
//! ```
#![no_std]

extern crate alloc;

mod attester;

use alloc::boxed::Box;

use myelin_boundary::{Machine, NoEntropy, Owned, Reply, entry, fill_random, stop};
use myelin_engine::TrainingEngine;
use myelin_job::Job;
use myelin_wire::message::refusal;
use myelin_wire::{Code, Entropy, Error};

use crate::attester::{Attester, attester};

/// Random numbers of the processor that the enclave runs on.
struct Processor;

impl Entropy for Processor {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        fill_random(out).map_err(|NoEntropy| {
            Error::new(Code::EntropyFailed, "neither rdseed nor rdrand answers")
        })
    }
}

type Enclave = Job<TrainingEngine, Attester, Processor>;

/// The enclave's one state, on the heap so that its moves leave no copies in statics.
static ENCLAVE: Owned<Box<Enclave>> = Owned::new();

entry!(handle);

/// Handles one message of the host. The first one makes the enclave.
fn handle(request: &[u8]) -> Reply {
    let reply = ENCLAVE.with(|state| {
        let enclave = match state {
            Some(enclave) => enclave,
            None => match start() {
                Ok(enclave) => state.insert(enclave),
                Err(error) => {
                    return Reply {
                        bytes: refusal(&error),
                        stop: true,
                    };
                }
            },
        };
        let bytes = enclave.handle(request);
        Reply {
            bytes,
            stop: enclave.is_dead(),
        }
    });
    // Only slot 0 handles messages, one at a time: the state cannot be in use.
    reply.unwrap_or_else(|| stop())
}

/// Checks the plan and makes the enclave, before anything of a message is looked at.
fn start() -> Result<Box<Enclave>, Error> {
    let machine = Machine::take()
        .ok_or_else(|| Error::new(Code::PlanInvalid, "the image's memory is taken").fatal())?;
    let engine = TrainingEngine::new(machine)?;
    let mut entropy = Processor;
    let attester = attester(&mut entropy)?;
    Ok(Box::new(Job::new(engine, attester, entropy)))
}
