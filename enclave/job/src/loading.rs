//! Sealed datasets in, records to the engine, protocol section 5 and messages 7 and 8.

use alloc::format;

use myelin_seal::{DatasetOpener, Expected};
use myelin_wire::{Code, Contract, Engine, Error};

use crate::admission::Admitted;

/// Which dataset is coming in. They come in the contract's order, each once, each whole.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    complete: usize,
    open: Option<DatasetOpener>,
}

impl Loading {
    pub(crate) fn is_complete(&self, contract: &Contract) -> bool {
        self.complete == contract.datasets.len()
    }

    /// Starts the next dataset; answers its chunk count.
    pub(crate) fn begin(
        &mut self,
        index: u64,
        prefix: &[u8],
        contract: &Contract,
        admitted: &mut Admitted,
        record_bytes: u64,
    ) -> Result<u32, Error> {
        let at = self.complete;
        if self.open.is_some() && index == at as u64 || index < at as u64 {
            return Err(Error::new(Code::AlreadyGiven, format!("dataset {index}")));
        }
        let (Some(dataset), Some(slot)) =
            (contract.datasets.get(at), admitted.data_keys.get_mut(at))
        else {
            return Err(Error::new(Code::OutOfOrder, "all datasets are in"));
        };
        if self.open.is_some() || index != at as u64 {
            return Err(Error::new(
                Code::OutOfOrder,
                format!("expected dataset {at}, got {index}"),
            ));
        }
        let key = slot
            .as_ref()
            .ok_or_else(|| Error::new(Code::OutOfOrder, format!("no key for dataset {at}")))?;
        let expected = Expected {
            digest: &dataset.digest,
            schema: &dataset.schema,
            records: dataset.records,
            record_bytes,
        };
        let opener = DatasetOpener::begin(key, prefix, &expected)?;
        let chunks = opener.chunks();
        self.open = Some(opener);
        *slot = None;
        Ok(chunks)
    }

    /// Opens the next chunk and hands its records to the engine; answers how many chunks are missing.
    pub(crate) fn chunk(
        &mut self,
        index: u64,
        ciphertext: &[u8],
        engine: &mut impl Engine,
    ) -> Result<u32, Error> {
        let at = self.complete;
        let opener = self
            .open
            .as_mut()
            .ok_or_else(|| Error::new(Code::OutOfOrder, "no dataset has begun"))?;
        let records = opener.open(index, ciphertext)?;
        // The engine may have kept a part, so there is no way back; and what it says might say something of a record.
        engine.accept(records).map_err(|error| {
            Error::new(
                error.code,
                format!("dataset {at}: {}", error.code.meaning()),
            )
            .fatal()
        })?;
        let missing = opener.missing();
        if missing == 0 {
            self.open = None;
            self.complete += 1;
        }
        Ok(missing)
    }
}
