//! The four commands that a quote takes, and their responses, in the TPM's own encoding (TPM 2.0 Library, parts 2 and 3).

use crate::fault::Fault;

const WHAT: &str = "the TPM";
const HEADER_BYTES: usize = 10;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CREATE_PRIMARY: u32 = 0x131;
const QUOTE: u32 = 0x158;
const HASH: u32 = 0x17d;
const PCR_READ: u32 = 0x17e;

const ENDORSEMENT: u32 = 0x4000_000b;
const NULL_HIERARCHY: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;

const ECC: u16 = 0x0023;
const ECDSA: u16 = 0x0018;
const SHA256: u16 = 0x000b;
const P256: u16 = 0x0003;
const NULL: u16 = 0x0010;

/// Signs what the TPM itself wrote and nothing else, never leaves this TPM, was made in it, needs no password.
const KEY_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18;

/// A command's bytes as they grow.
struct Command(Vec<u8>);

impl Command {
    fn new(tag: u16, code: u32) -> Self {
        Self(Vec::new()).short(tag).word(0).word(code)
    }

    fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A TPM2B. What is written here has at most a few hundred bytes.
    fn sized(self, bytes: &[u8]) -> Self {
        let mut next = self.short(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        next.0.extend(bytes);
        next
    }

    /// The one session: an empty password.
    fn password(self) -> Self {
        let mut next = self.word(9).word(PASSWORD).short(0);
        next.0.push(0);
        next.short(0)
    }

    /// A selection of registers of the SHA-256 bank.
    fn selection(self, registers: [u8; 3]) -> Self {
        let mut next = self.word(1).short(SHA256);
        next.0.push(3);
        next.0.extend(registers);
        next
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_be_bytes();
        for (place, byte) in self.0.iter_mut().skip(2).zip(length) {
            *place = byte;
        }
        self.0
    }
}

/// TPM2_CreatePrimary of the attestation key: ECDSA on P-256, restricted, below the endorsement seed.
pub fn create_primary() -> Vec<u8> {
    let template = Command(Vec::new())
        .short(ECC)
        .short(SHA256)
        .word(KEY_ATTRIBUTES)
        .sized(&[])
        .short(NULL)
        .short(ECDSA)
        .short(SHA256)
        .short(P256)
        .short(NULL)
        .sized(&[])
        .sized(&[]);
    Command::new(SESSIONS, CREATE_PRIMARY)
        .word(ENDORSEMENT)
        .password()
        .sized(&[0; 4])
        .sized(&template.0)
        .sized(&[])
        .word(0)
        .finish()
}

/// TPM2_Quote over registers, by the key's own scheme.
pub fn quote(key: u32, qualifying: &[u8], registers: [u8; 3]) -> Vec<u8> {
    Command::new(SESSIONS, QUOTE).word(key).password().sized(qualifying).short(NULL).selection(registers).finish()
}

/// TPM2_PCR_Read.
pub fn pcr_read(registers: [u8; 3]) -> Vec<u8> {
    Command::new(NO_SESSIONS, PCR_READ).selection(registers).finish()
}

/// TPM2_Hash by SHA-256.
pub fn hash(data: &[u8]) -> Vec<u8> {
    Command::new(NO_SESSIONS, HASH).sized(data).short(SHA256).word(NULL_HIERARCHY).finish()
}

/// A response that says success.
#[derive(Debug)]
pub struct Response {
    bytes: Vec<u8>,
    at: usize,
}

impl Response {
    /// Checks the header of a response.
    pub fn read(bytes: Vec<u8>) -> Result<Self, Fault> {
        let mut header = Cursor { bytes: &bytes };
        header.take(2)?;
        let length = header.word()?;
        let code = header.word()?;
        if code != 0 {
            return Err(Fault::new(WHAT, format!("answered with code 0x{code:x}")));
        }
        if length as usize != bytes.len() {
            return Err(Fault::new(WHAT, format!("answered {} bytes, and says {length}", bytes.len())));
        }
        Ok(Self { bytes, at: HEADER_BYTES })
    }

    /// What is left to read.
    pub fn fields(&self) -> Cursor<'_> {
        Cursor { bytes: self.bytes.get(self.at..).unwrap_or_default() }
    }

    /// The handle of what was made.
    pub fn handle(&mut self) -> Result<u32, Fault> {
        let handle = self.fields().word()?;
        self.at += 4;
        Ok(handle)
    }

    /// The parameters alone, without the sessions behind them.
    pub fn parameters(&mut self) -> Result<Cursor<'_>, Fault> {
        let mut fields = self.fields();
        let length = fields.word()? as usize;
        Ok(Cursor { bytes: fields.take(length)? })
    }
}

/// Reading from a response; every way off its end is a fault.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// So many bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(Fault::new(WHAT, "answered fewer bytes than its fields need"));
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Passes over bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.take(count).map(drop)
    }

    /// A UINT32.
    pub fn word(&mut self) -> Result<u32, Fault> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    /// The bytes of a TPM2B.
    pub fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = self.take(2)?;
        let length = bytes.iter().fold(0, |value, &byte| value << 8 | usize::from(byte));
        self.take(length)
    }

    /// Passes over a TPML_PCR_SELECTION.
    pub fn selection(&mut self) -> Result<(), Fault> {
        for _ in 0..self.word()? {
            self.skip(2)?;
            let length = self.take(1)?.first().copied().unwrap_or_default();
            self.skip(length.into())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_their_length() {
        for command in [create_primary(), quote(0x8000_0000, &[7; 32], [1, 2, 3]), pcr_read([0xff; 3]), hash(&[0; 64])]
        {
            let mut fields = Cursor { bytes: &command };
            assert!(fields.skip(2).is_ok());
            assert_eq!(fields.word().ok(), Some(command.len() as u32));
        }
        assert_eq!(pcr_read([0xff, 3, 0]), [0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3, 0xff, 3, 0]);
    }

    #[test]
    fn responses_that_are_cut_or_say_an_error_are_faults() {
        let whole = [0x80, 1, 0, 0, 0, 14, 0, 0, 0, 0, 0, 2, 7, 8];
        let response = Response::read(whole.to_vec());
        assert_eq!(response.ok().and_then(|r| r.fields().sized().ok().map(<[u8]>::to_vec)), Some(vec![7, 8]));
        for end in 0..whole.len() {
            assert!(Response::read(whole.get(..end).unwrap_or_default().to_vec()).is_err(), "{end}");
        }
        let mut refused = whole;
        if let Some(code) = refused.get_mut(9) {
            *code = 1;
        }
        assert!(Response::read(refused.to_vec()).is_err());
        let mut longer = whole;
        if let Some(size) = longer.get_mut(11) {
            *size = 3;
        }
        assert!(Response::read(longer.to_vec()).is_ok_and(|response| response.fields().sized().is_err()));
    }
}
