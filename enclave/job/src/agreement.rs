//! What there is between binding a contract and the end, and in which state that is.

use alloc::vec::Vec;

use myelin_seal::{RunKeys, SealingKey, transcript};
use myelin_wire::{Code, Contract, Digest, Error, PlanFacts};

use crate::admission::{Admission, Admitted};
use crate::deposits::Deposits;
use crate::loading::Loading;
use crate::release::Release;

/// What there is once a contract is bound.
#[derive(Debug)]
pub(crate) struct Agreement {
    pub(crate) contract: Contract,
    /// By party id.
    pub(crate) sealing_keys: Vec<SealingKey>,
    pub(crate) admission: Admission,
    pub(crate) admitted: Option<Admitted>,
    pub(crate) deposits: Option<Deposits>,
    pub(crate) loading: Loading,
    pub(crate) training: Option<Training>,
    pub(crate) release: Option<Release>,
}

#[derive(Debug)]
pub(crate) struct Training {
    pub(crate) steps_done: u64,
}

pub(crate) fn out_of_order(detail: &'static str) -> Error {
    Error::new(Code::OutOfOrder, detail)
}

pub(crate) fn dead() -> Error {
    Error::new(Code::Dead, Code::Dead.meaning())
}

pub(crate) fn bound(agreement: &mut Option<Agreement>) -> Result<&mut Agreement, Error> {
    agreement
        .as_mut()
        .ok_or_else(|| out_of_order("expected the contract first"))
}

impl Agreement {
    /// A contract whose every check has passed, with its parties' sealing keys by party id.
    pub(crate) fn new(contract: Contract, sealing_keys: Vec<SealingKey>) -> Self {
        Self {
            admission: Admission::new(&contract),
            contract,
            sealing_keys,
            admitted: None,
            deposits: None,
            loading: Loading::default(),
            training: None,
            release: None,
        }
    }

    /// Whether training may go on: all keys, all receipts of a fresh run, all data.
    pub(crate) fn check_ready(&self) -> Result<(), Error> {
        let admitted = self
            .admitted
            .as_ref()
            .ok_or_else(|| out_of_order("expected all grants first"))?;
        if admitted.is_fresh
            && self
                .deposits
                .as_ref()
                .is_none_or(|deposits| deposits.missing() > 0)
        {
            return Err(out_of_order(
                "expected the deposit receipts of all owners first",
            ));
        }
        if !self.loading.is_complete(&self.contract) {
            return Err(out_of_order("expected all datasets first"));
        }
        Ok(())
    }

    pub(crate) fn run_keys(&self, measurement: &Digest) -> Result<RunKeys, Error> {
        let admitted = self.admitted.as_ref().ok_or_else(dead)?;
        let job_key = admitted.job_key.as_ref().ok_or_else(dead)?;
        let datasets = self.contract.datasets.iter().map(|dataset| &dataset.digest);
        RunKeys::derive(
            job_key,
            &transcript(measurement, &self.contract.digest, datasets),
        )
    }

    pub(crate) fn state_name(&self, facts: &PlanFacts) -> &'static str {
        let is_released = self.release.as_ref().is_some_and(Release::is_complete);
        match (is_released, &self.training, &self.admitted) {
            (true, _, _) => "released",
            (false, Some(training), _) if training.steps_done >= facts.steps => "trained",
            (false, Some(_), _) => "training",
            (false, None, Some(_)) if self.check_ready().is_ok() => "ready",
            (false, None, Some(_)) => "admitted",
            (false, None, None) => "bound",
        }
    }
}
