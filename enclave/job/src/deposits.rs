//! The job key's shares on their way to the brokers, and the receipts that they are stored, protocol section 4 steps 6 to 8.

use alloc::format;
use alloc::vec::Vec;

use myelin_seal::{Resume, SealingKey, Secret, job_key_check, seal_deposit, split};
use myelin_wire::cose::{DEPOSIT_TYPE, RECEIPT_TYPE, Verifier};
use myelin_wire::{Code, Contract, Digest, Entropy, Error, Writer, sha256};

use crate::admission::owner;
use crate::boot::Boot;

/// One owner's deposit, made once: asking again answers the same bytes.
#[derive(Debug)]
pub(crate) struct Deposit {
    pub(crate) party: usize,
    pub(crate) sealed: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    digest: Digest,
    is_stored: bool,
}

/// All deposits of a fresh run.
#[derive(Debug)]
pub(crate) struct Deposits {
    pub(crate) list: Vec<Deposit>,
}

impl Deposits {
    /// Splits the job key among the owners, and seals and signs one share for each.
    pub(crate) fn make(
        job_key: &Secret,
        boot: &Boot,
        contract: &Contract,
        sealing_keys: &[SealingKey],
        entropy: &mut impl Entropy,
    ) -> Result<Self, Error> {
        let check = job_key_check(job_key, &contract.digest)?;
        let shares = split(job_key, contract.datasets.len(), entropy)?;
        let mut list = Vec::with_capacity(shares.len());
        for (party, share) in contract.owners().zip(shares) {
            let key = sealing_keys
                .get(party)
                .ok_or_else(|| Error::new(Code::NotAParty, "no sealing key for an owner"))?;
            let deposit = Resume {
                run: boot.id,
                share,
                check: Secret::copied_from(check.expose()),
            };
            let sealed = seal_deposit(key, &contract.digest, party, &deposit, entropy)?;
            let digest = sha256(&sealed);
            let signed = Writer::new()
                .array(3)
                .bytes(&boot.id)
                .uint(party as u64)
                .bytes(&digest)
                .finish();
            list.push(Deposit {
                party,
                sealed,
                signature: boot.signer.sign(DEPOSIT_TYPE, &signed),
                digest,
                is_stored: false,
            });
        }
        Ok(Self { list })
    }

    pub(crate) fn missing(&self) -> usize {
        self.list
            .iter()
            .filter(|deposit| !deposit.is_stored)
            .count()
    }

    /// Takes a broker's receipt, which must be the owner's signature over exactly this deposit of this run.
    pub(crate) fn receive(
        &mut self,
        party: u64,
        receipt: &[u8],
        run: &Digest,
        contract: &Contract,
    ) -> Result<(), Error> {
        let (index, party) = owner(contract, party)?;
        let (deposit, owner) = match (self.list.get_mut(index), contract.parties.get(party)) {
            (Some(deposit), Some(owner)) => (deposit, owner),
            _ => return Err(Error::new(Code::NotAParty, "no deposit for that owner")),
        };
        if deposit.is_stored {
            return Err(Error::new(
                Code::AlreadyGiven,
                format!("the receipt of party {party}"),
            ));
        }
        let payload = Verifier::new(&owner.signing_key)
            .and_then(|key| key.open(RECEIPT_TYPE, receipt))
            .map_err(|error| {
                Error::new(
                    Code::ReceiptInvalid,
                    format!("receipt of party {party}: {}", error.detail),
                )
            })?;
        let expected = Writer::new()
            .array(4)
            .bytes(&contract.digest)
            .bytes(run)
            .uint(party as u64)
            .bytes(&deposit.digest)
            .finish();
        if payload != expected {
            let detail =
                format!("receipt of party {party}: for another contract, run, party or deposit");
            return Err(Error::new(Code::ReceiptInvalid, detail));
        }
        deposit.is_stored = true;
        Ok(())
    }
}
