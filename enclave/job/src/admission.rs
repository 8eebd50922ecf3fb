//! Grants in, job key out, protocol section 4 steps 4 and 5.

use alloc::format;
use alloc::vec::Vec;

use myelin_seal::{Grant, GrantPlace, Secret, job_key_check, join};
use myelin_wire::{Code, Contract, Digest, Entropy, Error};

use crate::boot::Boot;

/// The grants that are in, one place per owner, in order of dataset.
#[derive(Debug)]
pub(crate) struct Admission {
    grants: Vec<Option<Grant>>,
}

/// What all grants together give.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The boot id of the boot that drew the job key.
    pub(crate) run: Digest,
    /// Whether this boot drew it, so that shares must be deposited before training.
    pub(crate) is_fresh: bool,
    /// Keys the run's randomness; dropped as soon as that is derived.
    pub(crate) job_key: Option<Secret>,
    /// One per dataset; each is dropped as soon as its dataset is being opened.
    pub(crate) data_keys: Vec<Option<Secret>>,
}

impl Admission {
    pub(crate) fn new(contract: &Contract) -> Self {
        Self {
            grants: contract.datasets.iter().map(|_| None).collect(),
        }
    }

    pub(crate) fn missing(&self) -> usize {
        self.grants.iter().filter(|grant| grant.is_none()).count()
    }

    /// Takes the grant of one owner. Answers what all of them give when it was the last one.
    pub(crate) fn take(
        &mut self,
        party: u64,
        sealed: &[u8],
        boot: &Boot,
        contract: &Contract,
        entropy: &mut impl Entropy,
    ) -> Result<Option<Admitted>, Error> {
        let (index, party) = owner(contract, party)?;
        let place = GrantPlace {
            contract: &contract.digest,
            measurement: &boot.measurement,
            boot: &boot.id,
            party,
        };
        let slot = self
            .grants
            .get_mut(index)
            .ok_or_else(|| Error::new(Code::NotAParty, "no dataset for that owner"))?;
        if slot.is_some() {
            return Err(Error::new(
                Code::AlreadyGiven,
                format!("the grant of party {party}"),
            ));
        }
        let grant = Grant::open(&boot.opening, &place, sealed)?;
        self.check_agrees(&grant)?;
        if let Some(slot) = self.grants.get_mut(index) {
            *slot = Some(grant);
        }
        if self.missing() > 0 {
            return Ok(None);
        }
        let admitted = self.complete(boot, contract, entropy);
        if admitted.is_err()
            && let Some(slot) = self.grants.get_mut(index)
        {
            *slot = None;
        }
        admitted.map(Some)
    }

    /// All grants must be of one mode, and of one run if they resume.
    fn check_agrees(&self, grant: &Grant) -> Result<(), Error> {
        for other in self.grants.iter().flatten() {
            match (&grant.resume, &other.resume) {
                (None, None) => {}
                (Some(a), Some(b)) if a.run == b.run && a.check.equals(&b.check) => {}
                (Some(_), Some(_)) => {
                    return Err(Error::new(
                        Code::ShareInconsistent,
                        "the owners resume different runs",
                    ));
                }
                _ => return Err(Error::new(Code::GrantMixed, Code::GrantMixed.meaning())),
            }
        }
        Ok(())
    }

    /// Draws the job key, or joins it from the shares and checks it; then gives up the grants.
    fn complete(
        &mut self,
        boot: &Boot,
        contract: &Contract,
        entropy: &mut impl Entropy,
    ) -> Result<Admitted, Error> {
        let first = self
            .grants
            .iter()
            .flatten()
            .find_map(|grant| grant.resume.as_ref());
        let (run, is_fresh, job_key) = match first {
            None => (boot.id, true, Secret::generate(entropy)?),
            Some(resume) => {
                let shares = self
                    .grants
                    .iter()
                    .flatten()
                    .filter_map(|grant| grant.resume.as_ref());
                let key = join(shares.map(|resume| &resume.share));
                if !job_key_check(&key, &contract.digest)?.equals(&resume.check) {
                    return Err(Error::new(
                        Code::ShareInconsistent,
                        Code::ShareInconsistent.meaning(),
                    ));
                }
                (resume.run, false, key)
            }
        };
        let data_keys = self
            .grants
            .iter_mut()
            .map(|grant| grant.take().map(|grant| grant.data_key))
            .collect();
        Ok(Admitted {
            run,
            is_fresh,
            job_key: Some(job_key),
            data_keys,
        })
    }
}

/// The index among the datasets, and the party id, of an owner that the host names.
pub(crate) fn owner(contract: &Contract, party: u64) -> Result<(usize, usize), Error> {
    contract
        .owners()
        .enumerate()
        .find(|(_, owner)| *owner as u64 == party)
        .ok_or_else(|| {
            Error::new(
                Code::NotAParty,
                format!("party {party} is not an owner of the contract"),
            )
        })
}
