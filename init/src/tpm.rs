//! Quotes of a TPM 2.0: what firmware and kernel measured of this boot, signed by a key that never leaves the TPM.
//!
//! The key is made anew at each start from the TPM's endorsement seed and a fixed template, so that it is the same at every
//! start of one machine, and the relying party can list it.

mod command;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};

use crate::cbor;
use crate::fault::Fault;
use crate::source::{REPORT_DATA_BYTES, Source};
use command::Response;

const DEVICE: &str = "/dev/tpm0";
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const MEDIA_TYPE: &str = "application/vnd.myelin.tpm-quote+cbor";
const WHAT: &str = "the TPM";
const EVENT_LOG_BYTES_LIMIT: u64 = 128 << 10;
const RESPONSE_BYTES_LIMIT: usize = 4096;
/// Registers 0 to 9: firmware's, the boot loader's, and those that the kernel's first code extends with the command line
/// and the initrd.
const REGISTERS: [u8; 3] = [0xff, 0x03, 0x00];
const REGISTER_COUNT: usize = 10;

/// A TPM with its attestation key loaded.
#[derive(Debug)]
pub struct Tpm {
    device: File,
    key: u32,
    public: Vec<u8>,
}

impl Tpm {
    /// Opens the TPM and makes the key; nothing where there is none.
    pub fn open() -> Result<Option<Self>, Fault> {
        let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(device) => device,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::new(WHAT, error)),
        };
        let mut tpm = Self { device, key: 0, public: Vec::new() };
        let mut response = tpm.exchange(&command::create_primary())?;
        tpm.key = response.handle()?;
        tpm.public = response.parameters()?.sized()?.to_vec();
        Ok(Some(tpm))
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Response, Fault> {
        let mut buffer = vec![0; RESPONSE_BYTES_LIMIT];
        // The driver takes a command in one write and gives its response in one read.
        let length = self
            .device
            .write_all(command)
            .and_then(|()| self.device.read(&mut buffer))
            .map_err(|error| Fault::new(WHAT, error))?;
        buffer.truncate(length);
        Response::read(buffer)
    }

    /// The values of the quoted registers, in order.
    fn registers(&mut self) -> Result<Vec<Vec<u8>>, Fault> {
        let mut values = Vec::new();
        while values.len() < REGISTER_COUNT {
            // A TPM gives as many as it likes of what is asked for, the lowest first.
            let mut left = REGISTERS;
            for index in 0..values.len() {
                if let Some(byte) = left.get_mut(index / 8) {
                    *byte &= !(1 << (index % 8));
                }
            }
            let response = self.exchange(&command::pcr_read(left))?;
            let mut fields = response.fields();
            fields.skip(4)?;
            fields.selection()?;
            let count = fields.word()?;
            if count == 0 || count as usize > REGISTER_COUNT - values.len() {
                return Err(Fault::new(WHAT, format!("gave {count} registers")));
            }
            for _ in 0..count {
                values.push(fields.sized()?.to_vec());
            }
        }
        Ok(values)
    }

    /// The SHA-256 of the report data, which fits the qualifying data of every TPM; 64 bytes do not.
    fn digest(&mut self, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, Fault> {
        let response = self.exchange(&command::hash(report_data))?;
        Ok(response.fields().sized()?.to_vec())
    }
}

impl Source for Tpm {
    fn evidence(&mut self, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, Fault> {
        let qualifying = self.digest(report_data)?;
        let mut response = self.exchange(&command::quote(self.key, &qualifying, REGISTERS))?;
        let mut fields = response.parameters()?;
        let quote = fields.sized()?.to_vec();
        let signature = fields.rest().to_vec();
        let registers = self.registers()?;
        let log = event_log()?;
        Ok(cbor::cmw(MEDIA_TYPE, &evidence(&registers, &quote, &self.public, &log, &signature)))
    }
}

/// The firmware's log, and what the kernel's first code added to it.
fn event_log() -> Result<Vec<u8>, Fault> {
    let mut log = Vec::new();
    File::open(EVENT_LOG)
        .and_then(|file| file.take(EVENT_LOG_BYTES_LIMIT + 1).read_to_end(&mut log))
        .map_err(|error| Fault::new("the TPM's event log", error))?;
    if log.len() as u64 > EVENT_LOG_BYTES_LIMIT {
        return Err(Fault::new("the TPM's event log", format!("is longer than {EVENT_LOG_BYTES_LIMIT} bytes")));
    }
    Ok(log)
}

/// A map of five, keys in the order of their encodings.
fn evidence(registers: &[Vec<u8>], quote: &[u8], public: &[u8], log: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(log.len() + 2048);
    cbor::head(&mut out, cbor::MAP, 5);
    cbor::text(&mut out, "pcrs");
    cbor::head(&mut out, cbor::MAP, registers.len());
    for (index, value) in registers.iter().enumerate() {
        cbor::head(&mut out, cbor::UINT, index);
        cbor::bytes(&mut out, value);
    }
    for (name, value) in [("quote", quote), ("ak_public", public), ("event_log", log), ("signature", signature)] {
        cbor::text(&mut out, name);
        cbor::bytes(&mut out, value);
    }
    out
}
