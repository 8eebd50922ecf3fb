//! The Nitro security module: asks `/dev/nsm` for an attestation document.
//!
//! A request and its answer are CBOR in two buffers that one `ioctl` names (Linux, `uapi/linux/nsm.h`; AWS,
//! `aws-nitro-enclaves-nsm-api`). The document is for the relying party to judge; nothing of it is looked at here.
//! The module's answer is a stranger's: every length is checked before it is used.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::cbor;
use crate::fault::Fault;
use crate::source::{REPORT_DATA_BYTES, Source};

/// Where the kernel has the module.
pub const DEVICE: &str = "/dev/nsm";

const MEDIA_TYPE: &str = "application/vnd.myelin.nitro-document+cbor";
const MOST_REQUEST_BYTES: usize = 0x1000;
const MOST_RESPONSE_BYTES: usize = 0x3000;
const MOST_USER_DATA_BYTES: usize = 512;
const MOST_NONCE_BYTES: usize = 512;
const MOST_PUBLIC_KEY_BYTES: usize = 1024;
const MOST_CODE_BYTES: usize = 32;
const NULL: u8 = 0xF6;
const IOCTL_RAW: u64 = 0xC000_0A00 | (size_of::<Raw>() as u64) << 16;

/// Why there is no document.
#[derive(Debug)]
pub enum NsmError {
    /// The device cannot be opened, or does not do what is asked of it.
    Unavailable(io::Error),
    /// A field of the request is longer than the module takes.
    TooLong {
        /// Which field.
        field: &'static str,
        /// How long it may be, in bytes.
        most: usize,
        /// How long it is.
        got: usize,
    },
    /// The module refused; its own word for why.
    Refused(String),
    /// The module's answer has not its form.
    Unreadable(&'static str),
}

impl fmt::Display for NsmError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(error) => write!(out, "expected the Nitro security module to answer, got: {error}"),
            Self::TooLong { field, most, got } => {
                write!(out, "Nitro request, {field}: expected at most {most} bytes, got {got}")
            }
            Self::Refused(code) => write!(out, "the Nitro security module refused: {code}"),
            Self::Unreadable(what) => write!(out, "answer of the Nitro security module: expected {what}"),
        }
    }
}

impl std::error::Error for NsmError {}

/// Whether this is an enclave of AWS's hypervisor.
pub fn is_here() -> bool {
    Path::new(DEVICE).exists()
}

/// Something that answers requests as the module does.
pub trait Exchange {
    /// Sends `request`, and gives how many bytes of `response` were written.
    fn exchange(&mut self, request: &[u8], response: &mut [u8]) -> io::Result<usize>;
}

/// The module behind [`DEVICE`].
#[derive(Debug)]
pub struct SecurityModule(File);

impl SecurityModule {
    /// Opens the device; nothing where there is none.
    pub fn open() -> Result<Option<Self>, Fault> {
        match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(device) => Ok(Some(Self(device))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::new(DEVICE, error)),
        }
    }
}

impl Source for SecurityModule {
    fn evidence(&mut self, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, Fault> {
        let document = attest(self, report_data).map_err(|error| Fault::new(DEVICE, error))?;
        Ok(cbor::cmw(MEDIA_TYPE, &document))
    }
}

/// `struct nsm_iovec` of the kernel.
#[repr(C)]
struct Buffer {
    address: u64,
    length: u64,
}

/// `struct nsm_raw` of the kernel.
#[repr(C)]
struct Raw {
    request: Buffer,
    response: Buffer,
}

impl Exchange for SecurityModule {
    fn exchange(&mut self, request: &[u8], response: &mut [u8]) -> io::Result<usize> {
        let mut raw = Raw {
            request: Buffer { address: request.as_ptr() as u64, length: request.len() as u64 },
            response: Buffer { address: response.as_mut_ptr() as u64, length: response.len() as u64 },
        };
        // SAFETY: the descriptor is open, `raw` is the structure that this number stands for, and both of its buffers
        // outlive the call; the kernel reads the one, and writes at most the given length of the other.
        let status = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_RAW as _, &raw mut raw) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        usize::try_from(raw.response.length).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// A document with `report_data` as its `user_data`, where the verifier looks for it.
pub fn attest(module: &mut impl Exchange, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, NsmError> {
    document(module, Some(report_data), None, None)
}

/// A document with these fields, each of which the verifier may look at.
pub fn document(
    module: &mut impl Exchange,
    user_data: Option<&[u8]>,
    nonce: Option<&[u8]>,
    public_key: Option<&[u8]>,
) -> Result<Vec<u8>, NsmError> {
    let fields = [
        ("user_data", user_data, MOST_USER_DATA_BYTES),
        ("nonce", nonce, MOST_NONCE_BYTES),
        ("public_key", public_key, MOST_PUBLIC_KEY_BYTES),
    ];
    let mut request = vec![0xA1];
    cbor::text(&mut request, "Attestation");
    request.push(0xA0 | fields.len() as u8);
    for (field, value, most) in fields {
        let got = value.map_or(0, <[u8]>::len);
        if got > most {
            return Err(NsmError::TooLong { field, most, got });
        }
        cbor::text(&mut request, field);
        match value {
            Some(bytes) => cbor::bytes(&mut request, bytes),
            None => request.push(NULL),
        }
    }
    if request.len() > MOST_REQUEST_BYTES {
        return Err(NsmError::TooLong { field: "all of it", most: MOST_REQUEST_BYTES, got: request.len() });
    }
    let mut response = vec![0; MOST_RESPONSE_BYTES];
    let length = module.exchange(&request, &mut response).map_err(NsmError::Unavailable)?;
    let answer = response.get(..length).ok_or(NsmError::Unreadable("no more than there is room for"))?;
    read_answer(answer)
}

/// What is left of an answer.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], NsmError> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(NsmError::Unreadable("all of its bytes"))?;
        self.0 = left;
        Ok(taken)
    }

    /// The length of the next item, which must be of this type and have a definite length.
    fn length(&mut self, major: u8, what: &'static str) -> Result<usize, NsmError> {
        let [first] = *self.take(1)? else { return Err(NsmError::Unreadable(what)) };
        if first >> 5 != major {
            return Err(NsmError::Unreadable(what));
        }
        let more = match first & 31 {
            short @ 0..24 => return Ok(usize::from(short)),
            24 => 1,
            25 => 2,
            26 => 4,
            _ => return Err(NsmError::Unreadable(what)),
        };
        Ok(self.take(more)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }

    fn item(&mut self, major: u8, what: &'static str) -> Result<&'a [u8], NsmError> {
        let length = self.length(major, what)?;
        self.take(length)
    }
}

/// The document of an answer `{"Attestation": {"document": bytes}}`; `{"Error": text}` is a refusal.
fn read_answer(answer: &[u8]) -> Result<Vec<u8>, NsmError> {
    let mut cursor = Cursor(answer);
    if cursor.length(cbor::MAP, "a map")? != 1 {
        return Err(NsmError::Unreadable("a map with one entry"));
    }
    let document = match cursor.item(cbor::TEXT, "the name of what was asked for")? {
        b"Error" => {
            let code = cursor.item(cbor::TEXT, "a word for the error")?;
            return Err(NsmError::Refused(shown(code)));
        }
        b"Attestation" => {
            if cursor.length(cbor::MAP, "a map in it")? != 1 || cursor.item(cbor::TEXT, "a name in it")? != b"document"
            {
                return Err(NsmError::Unreadable("a document and nothing else"));
            }
            cursor.item(cbor::BYTES, "the document's bytes")?
        }
        _ => return Err(NsmError::Unreadable("an answer to what was asked")),
    };
    if !cursor.0.is_empty() || document.is_empty() {
        return Err(NsmError::Unreadable("one document, and nothing after it"));
    }
    Ok(document.to_vec())
}

/// A stranger's word, for people: short, and of letters only.
fn shown(code: &[u8]) -> String {
    code.iter()
        .take(MOST_CODE_BYTES)
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte) } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;
    use crate::cbor::{BYTES, head, text};

    /// Answers like a module, and keeps what it was asked.
    struct Answering {
        answer: Vec<u8>,
        asked: Vec<u8>,
        length: Option<usize>,
    }

    impl Answering {
        fn with(answer: Vec<u8>) -> Self {
            Self { answer, asked: Vec::new(), length: None }
        }
    }

    impl Exchange for Answering {
        fn exchange(&mut self, request: &[u8], response: &mut [u8]) -> io::Result<usize> {
            self.asked = request.to_vec();
            let room = response.len().min(self.answer.len());
            for (to, from) in response.iter_mut().zip(&self.answer) {
                *to = *from;
            }
            Ok(self.length.unwrap_or(room))
        }
    }

    fn answer(document: &[u8]) -> Vec<u8> {
        let mut out = vec![0xA1];
        text(&mut out, "Attestation");
        out.push(0xA1);
        text(&mut out, "document");
        head(&mut out, BYTES, document.len());
        out.extend_from_slice(document);
        out
    }

    fn said(result: Result<Vec<u8>, NsmError>) -> String {
        match result {
            Ok(document) => format!("a document of {}", document.len()),
            Err(error) => error.to_string(),
        }
    }

    /// What aws-nitro-enclaves-nsm-api 0.4.0 and `serde_cbor` write for the same request.
    #[test]
    fn the_request_is_the_interface_s() {
        let mut module = Answering::with(answer(b"signed"));
        assert_eq!(document(&mut module, Some(b"\x01\x02"), None, Some(&[7; 30])).ok(), Some(b"signed".to_vec()));
        let mut expected =
            b"\xA1\x6BAttestation\xA3\x69user_data\x42\x01\x02\x65nonce\xF6\x6Apublic_key\x58\x1E".to_vec();
        expected.extend([7; 30]);
        assert_eq!(module.asked, expected);
    }

    #[test]
    fn report_data_is_user_data() {
        let mut module = Answering::with(answer(&[1; 4500]));
        let report_data = core::array::from_fn(|place| place as u8);
        assert_eq!(attest(&mut module, &report_data).ok(), Some(vec![1; 4500]));
        let mut expected = b"\xA1\x6BAttestation\xA3\x69user_data\x58\x40".to_vec();
        expected.extend(report_data);
        expected.extend(b"\x65nonce\xF6\x6Apublic_key\xF6");
        assert_eq!(module.asked, expected);
    }

    #[test]
    fn fields_have_the_interface_s_limits() {
        let mut module = Answering::with(answer(b"signed"));
        assert!(document(&mut module, Some(&[0; 512]), Some(&[0; 512]), Some(&[0; 1024])).is_ok());
        assert!(module.asked.len() < MOST_REQUEST_BYTES);
        module.asked.clear();
        let long = said(document(&mut module, Some(&[0; 513]), None, None));
        assert_eq!(long, "Nitro request, user_data: expected at most 512 bytes, got 513");
        assert!(said(document(&mut module, None, Some(&[0; 513]), None)).contains("nonce"));
        assert!(said(document(&mut module, None, None, Some(&[0; 1025]))).contains("public_key"));
        assert!(module.asked.is_empty(), "nothing was sent");
    }

    #[test]
    fn a_refusal_is_told() {
        for code in ["InvalidArgument", "InputTooLarge", "InternalError"] {
            let mut refusal = b"\xA1\x65Error".to_vec();
            text(&mut refusal, code);
            let told = said(attest(&mut Answering::with(refusal), &[0; 64]));
            assert_eq!(told, format!("the Nitro security module refused: {code}"));
        }
        let mut hostile = b"\xA1\x65Error".to_vec();
        text(&mut hostile, &"\x1b[2J".repeat(100));
        let told = said(attest(&mut Answering::with(hostile), &[0; 64]));
        assert!(told.ends_with("refused: ??2J??2J??2J??2J??2J??2J??2J??2J"), "{told}");
    }

    #[test]
    fn no_prefix_and_no_flip_of_an_answer_does_harm() {
        let good = answer(&[9; 300]);
        for length in 0..good.len() {
            assert!(read_answer(&good[..length]).is_err(), "{length}");
        }
        for place in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[place] ^= 1 << bit;
                if let Ok(document) = read_answer(&flipped) {
                    assert!(document.len() <= good.len());
                }
            }
        }
        let mut longer = good;
        longer.push(0);
        assert!(read_answer(&longer).is_err());
    }

    #[test]
    fn arbitrary_answers_are_read_or_refused() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let mut data = answer(&[3; 40]);
            for _ in 0..next() % 4 {
                let place = next() as usize % data.len();
                data[place] = next() as u8;
            }
            data.truncate(next() as usize % (data.len() + 1));
            if let Ok(document) = read_answer(&data) {
                assert!(document.len() <= 40);
            }
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_refused() {
        let mut module = Answering::with(answer(b"signed"));
        module.length = Some(MOST_RESPONSE_BYTES + 1);
        assert!(said(attest(&mut module, &[0; 64])).contains("room"));
        let huge = [0xA1, 0x6B].iter().chain(b"Attestation\xA1\x68document\x5A\xFF\xFF\xFF\xFF").copied().collect();
        assert!(said(attest(&mut Answering::with(huge), &[0; 64])).contains("all of its bytes"));
    }

    #[test]
    fn the_ioctl_is_the_kernel_s_and_a_device_that_is_none_refuses_it() {
        assert_eq!(IOCTL_RAW, 0xC020_0A00, "_IOWR(0x0A, 0, struct nsm_raw)");
        let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
        let told = said(attest(&mut SecurityModule(null), &[0; 64]));
        assert!(told.contains("expected the Nitro security module"), "{told}");
    }
}
