//! Who vouches for this machine.

use crate::fault::Fault;
use crate::nsm::SecurityModule;
use crate::tpm::Tpm;
use crate::tsm::Tsm;

/// Bytes that evidence is bound to.
pub const REPORT_DATA_BYTES: usize = 64;

/// Something that signs what this machine is, together with bytes of ours.
pub trait Source {
    /// Evidence in its envelope (a CMW record, RFC 9999).
    fn evidence(&mut self, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, Fault>;
}

/// The first there is: the processor's own report or the Nitro hypervisor's document before a TPM, which whoever runs the machine may have made up. Which
/// kind counts, relying parties say in their policy: taking the wrong one here gains nothing.
pub fn find() -> Result<Box<dyn Source>, Fault> {
    if let Some(tsm) = Tsm::open()? {
        return Ok(Box::new(tsm));
    }
    if let Some(module) = SecurityModule::open()? {
        return Ok(Box::new(module));
    }
    if let Some(tpm) = Tpm::open()? {
        return Ok(Box::new(tpm));
    }
    Err(Fault::new(
        "evidence",
        "nothing vouches for this machine: no report provider of the kernel (TDX, SEV-SNP), no Nitro security module, no TPM",
    ))
}
