//! The state machine.

use alloc::format;
use alloc::vec::Vec;

use myelin_abi::{ABI_VERSION, SLOT_COUNT};
use myelin_seal::SealingKey;
use myelin_wire::message::{answer, evidence_wanted, refusal};
use myelin_wire::{
    Attester, Code, Contract, Digest, Engine, Entropy, Error, Evidence, PlanFacts, Purpose,
    Request, StepKeys, sha256,
};

use crate::agreement::{Agreement, Training, bound, dead, out_of_order};
use crate::boot::Boot;
use crate::deposits::Deposits;
use crate::release::{Ingredients, Release};

/// One enclave's life, from launch to release: takes one message, answers one.
///
/// ```ignore
/// let mut job = Job::new(engine, attester, entropy);
/// let reply = job.handle(request);
/// if job.is_dead() { /* wipe the arena, leave with DEAD */ }
/// ```
#[derive(Debug)]
pub struct Job<E: Engine, A: Attester, R: Entropy> {
    engine: Option<E>,
    attester: A,
    entropy: R,
    facts: PlanFacts,
    threads: usize,
    boot: Option<Boot>,
    agreement: Option<Agreement>,
    awaited: Option<Awaited>,
    is_dead: bool,
}

/// The request whose answer waits for evidence from what runs the image: until the next message, whatever it is.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    Attest,
    Release,
}

impl<E: Engine, A: Attester, R: Entropy> Job<E, A, R> {
    /// Waits for `launch`.
    #[must_use]
    pub fn new(engine: E, attester: A, entropy: R) -> Self {
        let facts = engine.facts().clone();
        Self {
            engine: Some(engine),
            attester,
            entropy,
            facts,
            threads: 1,
            boot: None,
            agreement: None,
            awaited: None,
            is_dead: false,
        }
    }

    /// Handles one request from the untrusted host and answers `[0, results…]`, `[1, error number, detail]` or, where what
    /// runs the image has to make evidence first, `[2, report data]`.
    pub fn handle(&mut self, request: &[u8]) -> Vec<u8> {
        if self.is_dead {
            return refusal(&dead());
        }
        let awaited = self.awaited.take();
        if awaited.is_some() {
            self.attester.settled();
        }
        match self.carry_out(request, awaited) {
            Ok(reply) => reply,
            Err(error) => {
                if error.fatal {
                    self.wipe();
                }
                refusal(&error)
            }
        }
    }

    /// Whether the enclave has stopped itself; it then answers only `dead`, and its memory is to be wiped.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// How many threads the loader said it lends, slot 0 included; 1 before launch.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The state's name, as `describe` answers it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (self.is_dead, &self.boot, &self.agreement) {
            (true, _, _) => "dead",
            (false, None, _) => "starting",
            (false, Some(_), None) => "launched",
            (false, Some(_), Some(agreement)) => agreement.state_name(&self.facts),
        }
    }

    /// Drops everything that is secret, here and now; the types wipe themselves.
    fn wipe(&mut self) {
        self.is_dead = true;
        self.agreement = None;
        self.boot = None;
        self.engine = None;
    }

    fn carry_out(&mut self, message: &[u8], awaited: Option<Awaited>) -> Result<Vec<u8>, Error> {
        let request = Request::read(message)?;
        if let Request::Launch {
            measurement,
            threads,
        } = request
        {
            return self.launch(measurement, threads);
        }
        let boot = self
            .boot
            .as_ref()
            .ok_or_else(|| out_of_order("expected launch first"))?;
        match request {
            Request::Launch { .. } => Err(out_of_order("launched before")),
            Request::Describe => Ok(answer(4)
                .bytes(&boot.keys.hpke)
                .bytes(&boot.keys.signing)
                .bytes(&self.facts.plan_digest)
                .text(self.state_name())
                .finish()),
            Request::Contract {
                contract,
                signatures,
            } => self.bind(contract, &signatures),
            Request::Attest { nonce, policy } => self.attest(nonce, policy),
            Request::Grant { party, sealed } => self.grant(party, sealed),
            Request::Shares => self.shares(),
            Request::Deposited { party, receipt } => self.deposited(party, receipt),
            Request::DataBegin { dataset, header } => self.data_begin(dataset, header),
            Request::DataChunk { chunk, ciphertext } => self.data_chunk(chunk, ciphertext),
            Request::Train { steps } => self.train(steps),
            Request::Release => self.release(),
            Request::Fetch {
                output,
                offset,
                length,
            } => self.fetch(output, offset, length),
            Request::Evidence { cmw } => self.evidence(awaited, cmw),
        }
    }

    fn launch(&mut self, measurement: &Digest, threads: u64) -> Result<Vec<u8>, Error> {
        if self.boot.is_some() {
            return Err(Error::new(Code::AlreadyGiven, "launched before"));
        }
        let threads = usize::try_from(threads)
            .ok()
            .filter(|threads| (1..=SLOT_COUNT).contains(threads))
            .ok_or_else(|| {
                Error::new(
                    Code::ThreadUnavailable,
                    format!("expected 1 to {SLOT_COUNT} threads"),
                )
            })?;
        self.boot = Some(Boot::launch(measurement, &mut self.entropy)?);
        self.attester.launched(measurement);
        self.threads = threads;
        Ok(answer(1).uint(ABI_VERSION).finish())
    }

    /// Binds the contract: form, then keys, then signatures, then whether it means this image and this plan.
    fn bind(&mut self, bytes: &[u8], signatures: &[Option<&[u8]>]) -> Result<Vec<u8>, Error> {
        let boot = self.boot.as_ref().ok_or_else(dead)?;
        if self.agreement.is_some() {
            return Err(Error::new(Code::AlreadyGiven, "the contract"));
        }
        let contract = Contract::read(bytes)?;
        let mut sealing_keys = Vec::with_capacity(contract.parties.len());
        for (id, party) in contract.parties.iter().enumerate() {
            let key = SealingKey::new(&party.sealing_key).map_err(|error| {
                Error::new(
                    Code::ContractMalformed,
                    format!("party {id}: {}", error.detail),
                )
            })?;
            sealing_keys.push(key);
        }
        contract.verify(bytes, signatures)?;
        if contract.measurement != boot.measurement {
            return Err(Error::new(
                Code::WrongMeasurement,
                Code::WrongMeasurement.meaning(),
            ));
        }
        if contract.plan != self.facts.plan_digest {
            return Err(Error::new(
                Code::WrongPlan,
                "the contract names another plan than the image has",
            ));
        }
        contract.event.check(&self.facts, contract.records())?;
        if contract.records() > self.facts.max_records.min(u32::MAX.into()) {
            let detail = format!(
                "room for {} records, the contract has {}",
                self.facts.max_records,
                contract.records()
            );
            return Err(Error::new(Code::DataTooLarge, detail));
        }
        let digest = contract.digest;
        self.agreement = Some(Agreement::new(contract, sealing_keys));
        Ok(answer(1).bytes(&digest).finish())
    }

    fn attest(&mut self, nonce: &Digest, policy: &Digest) -> Result<Vec<u8>, Error> {
        let (boot, agreement) = (
            self.boot.as_ref().ok_or_else(dead)?,
            bound(&mut self.agreement)?,
        );
        let data = boot.report_data(Purpose::KeyRelease, nonce, &agreement.contract, policy);
        match self.attester.evidence(&data)? {
            Evidence::Now(cmw) => Ok(attested(&cmw)),
            Evidence::Ask => {
                self.awaited = Some(Awaited::Attest);
                Ok(evidence_wanted(&data))
            }
        }
    }

    /// Ends the request that waited. Evidence is for others to judge: nothing here depends on what it says.
    fn evidence(&mut self, awaited: Option<Awaited>, cmw: &[u8]) -> Result<Vec<u8>, Error> {
        let agreement = bound(&mut self.agreement)?;
        match (awaited, &mut agreement.release) {
            (Some(Awaited::Attest), _) => Ok(attested(cmw)),
            (Some(Awaited::Release), Some(release)) => {
                release.complete(cmw);
                Ok(released(release))
            }
            _ => Err(out_of_order(
                "no evidence is wanted: expected attest or release right before",
            )),
        }
    }

    fn grant(&mut self, party: u64, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (boot, agreement) = (
            self.boot.as_ref().ok_or_else(dead)?,
            bound(&mut self.agreement)?,
        );
        if agreement.admitted.is_some() {
            return Err(Error::new(Code::AlreadyGiven, "all grants are in"));
        }
        agreement.admitted = agreement.admission.take(
            party,
            sealed,
            boot,
            &agreement.contract,
            &mut self.entropy,
        )?;
        let missing = match agreement.admitted {
            Some(_) => 0,
            None => agreement.admission.missing(),
        };
        Ok(answer(1).uint(missing as u64).finish())
    }

    fn shares(&mut self) -> Result<Vec<u8>, Error> {
        let (boot, agreement) = (
            self.boot.as_ref().ok_or_else(dead)?,
            bound(&mut self.agreement)?,
        );
        let admitted = agreement
            .admitted
            .as_ref()
            .ok_or_else(|| out_of_order("expected all grants first"))?;
        if !admitted.is_fresh {
            return Ok(answer(2).bytes(&admitted.run).array(0).finish());
        }
        if agreement.deposits.is_none() {
            let key = admitted
                .job_key
                .as_ref()
                .ok_or_else(|| out_of_order("training has begun"))?;
            let made = Deposits::make(
                key,
                boot,
                &agreement.contract,
                &agreement.sealing_keys,
                &mut self.entropy,
            )?;
            agreement.deposits = Some(made);
        }
        let list = agreement
            .deposits
            .as_ref()
            .map_or(&[][..], |deposits| &deposits.list);
        let mut reply = answer(2).bytes(&admitted.run).array(list.len());
        for deposit in list {
            reply = reply
                .array(3)
                .uint(deposit.party as u64)
                .bytes(&deposit.sealed)
                .bytes(&deposit.signature);
        }
        Ok(reply.finish())
    }

    fn deposited(&mut self, party: u64, receipt: &[u8]) -> Result<Vec<u8>, Error> {
        let agreement = bound(&mut self.agreement)?;
        let (Some(admitted), Some(deposits)) = (&agreement.admitted, &mut agreement.deposits)
        else {
            return Err(out_of_order("expected shares of a fresh run first"));
        };
        deposits.receive(party, receipt, &admitted.run, &agreement.contract)?;
        Ok(answer(1).uint(deposits.missing() as u64).finish())
    }

    fn data_begin(&mut self, dataset: u64, prefix: &[u8]) -> Result<Vec<u8>, Error> {
        let agreement = bound(&mut self.agreement)?;
        let admitted = agreement
            .admitted
            .as_mut()
            .ok_or_else(|| out_of_order("expected all grants first"))?;
        let chunks = agreement.loading.begin(
            dataset,
            prefix,
            &agreement.contract,
            admitted,
            self.facts.record_bytes,
        )?;
        Ok(answer(1).uint(chunks.into()).finish())
    }

    fn data_chunk(&mut self, chunk: u64, ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
        let agreement = bound(&mut self.agreement)?;
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| out_of_order("released before"))?;
        let missing = agreement.loading.chunk(chunk, ciphertext, engine)?;
        Ok(answer(1).uint(missing.into()).finish())
    }

    fn train(&mut self, steps: u64) -> Result<Vec<u8>, Error> {
        let boot = self.boot.as_ref().ok_or_else(dead)?;
        let agreement = bound(&mut self.agreement)?;
        agreement.check_ready()?;
        let engine = self
            .engine
            .as_mut()
            .ok_or_else(|| out_of_order("released before"))?;
        let stopped = |error: Error| Error::new(error.code, error.code.meaning()).fatal();
        if agreement.training.is_none() {
            let keys = agreement.run_keys(&boot.measurement)?;
            let records = u32::try_from(agreement.contract.records())
                .map_err(|_| Error::new(Code::DataTooLarge, "more than 2^32 - 1 records"))?;
            engine
                .begin(
                    &StepKeys {
                        sampling: keys.sampling.expose(),
                        noise: keys.noise.expose(),
                        dropout: keys.dropout.expose(),
                        augment: keys.augment.expose(),
                    },
                    records,
                )
                .map_err(stopped)?;
            agreement.training = Some(Training { steps_done: 0 });
            // From here on the keys are in the engine only.
            if let Some(admitted) = &mut agreement.admitted {
                admitted.job_key = None;
            }
        }
        let training = agreement.training.as_mut().ok_or_else(dead)?;
        if training.steps_done >= self.facts.steps {
            return Err(out_of_order("all steps are done"));
        }
        let done = engine
            .run(u32::try_from(steps).unwrap_or(u32::MAX))
            .map_err(stopped)?;
        training.steps_done = done.into();
        if training.steps_done > self.facts.steps {
            return Err(Error::new(Code::KernelFailed, "more steps than the plan has").fatal());
        }
        Ok(answer(2)
            .uint(training.steps_done)
            .uint(self.facts.steps)
            .finish())
    }

    fn release(&mut self) -> Result<Vec<u8>, Error> {
        let boot = self.boot.as_ref().ok_or_else(dead)?;
        let agreement = bound(&mut self.agreement)?;
        if agreement.release.is_none() {
            let (Some(admitted), Some(training)) = (&agreement.admitted, &agreement.training)
            else {
                return Err(out_of_order("expected training first"));
            };
            if training.steps_done != self.facts.steps {
                return Err(out_of_order("expected all steps first"));
            }
            let engine = self.engine.as_ref().ok_or_else(dead)?;
            let ingredients = Ingredients {
                boot,
                contract: &agreement.contract,
                sealing_keys: &agreement.sealing_keys,
                facts: &self.facts,
                run: &admitted.run,
            };
            agreement.release = Some(ingredients.release(engine, &mut self.entropy)?);
            // Nothing is asked of the engine after the one release; data and model go with it.
            self.engine = None;
        }
        let release = agreement.release.as_mut().ok_or_else(dead)?;
        if let Some(certificate) = release.without_evidence() {
            let (contract, nonce) = (&agreement.contract, sha256(certificate));
            let data = boot.report_data(Purpose::Certificate, &nonce, contract, &contract.policy);
            match self.attester.evidence(&data)? {
                Evidence::Now(cmw) => release.complete(&cmw),
                Evidence::Ask => {
                    self.awaited = Some(Awaited::Release);
                    return Ok(evidence_wanted(&data));
                }
            }
        }
        Ok(released(release))
    }

    fn fetch(&mut self, output: u64, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let agreement = bound(&mut self.agreement)?;
        let release = agreement
            .release
            .as_ref()
            .filter(|release| release.is_complete())
            .ok_or_else(|| out_of_order("expected release first"))?;
        Ok(answer(1)
            .bytes(release.fetch(output, offset, length)?)
            .finish())
    }
}

fn attested(cmw: &[u8]) -> Vec<u8> {
    answer(1).bytes(cmw).finish()
}

fn released(release: &Release) -> Vec<u8> {
    let lengths = release.lengths();
    let reply = answer(1).array(lengths.len());
    lengths
        .fold(reply, |reply, length| reply.uint(length as u64))
        .finish()
}
