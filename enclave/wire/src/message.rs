//! The messages between host and enclave, protocol section 6: `[code, fields…]`, answered `[0, results…]`,
//! `[1, error number, detail]` or `[2, report data]`.

use alloc::format;
use alloc::vec::Vec;

use crate::digest::Digest;
use crate::limits::{
    CONTRACT_BYTES_MAX, DATASET_HEADER_BYTES_MAX, DETACHED_BYTES_MAX, DETAIL_BYTES_MAX,
    EVIDENCE_BYTES_MAX, FETCH_BYTES_MAX, MESSAGE_BYTES_MAX, PARTIES_MAX, RECEIPT_BYTES_MAX,
    REPORT_DATA_BYTES, SEALED_GRANT_BYTES_MAX, TAG_BYTES,
};
use crate::{Code, Error, Reader, Writer};

/// Bytes before the header in what `data_begin` carries: the magic and the length.
const DATASET_PREFIX_BYTES: usize = 12;

/// One request, borrowing from the message it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// 0: first, once, from the loader.
    Launch {
        /// SHA-256 of the image file, as the loader measured it.
        measurement: &'a Digest,
        /// Threads that the loader lends, slot 0 included.
        threads: u64,
    },
    /// 1: who is here.
    Describe,
    /// 2: the contract and its signatures by party id, `None` for one not there.
    Contract {
        /// The contract's exact bytes.
        contract: &'a [u8],
        /// COSE_Sign1 with detached payload, each.
        signatures: Vec<Option<&'a [u8]>>,
    },
    /// 3: evidence for a broker.
    Attest {
        /// Chosen by the broker.
        nonce: &'a Digest,
        /// Digest of the broker's appraisal policy.
        policy: &'a Digest,
    },
    /// 4: one owner's grant.
    Grant {
        /// Whose.
        party: u64,
        /// HPKE sealed to this boot's key.
        sealed: &'a [u8],
    },
    /// 5: the deposits for all owners.
    Shares,
    /// 6: an owner's broker has stored its deposit.
    Deposited {
        /// Whose.
        party: u64,
        /// COSE_Sign1 by that owner.
        receipt: &'a [u8],
    },
    /// 7: the next dataset starts.
    DataBegin {
        /// Its index in the contract's `datasets`.
        dataset: u64,
        /// Magic, length and header as they stand in the file.
        header: &'a [u8],
    },
    /// 8: the next chunk of the dataset.
    DataChunk {
        /// Its index in the file.
        chunk: u64,
        /// As it stands in the file.
        ciphertext: &'a [u8],
    },
    /// 9: some steps.
    Train {
        /// The most steps to run now, at least 1.
        steps: u64,
    },
    /// 10: the one release.
    Release,
    /// 11: a piece of what was released.
    Fetch {
        /// 0 the certificate bundle, then one per recipient.
        output: u64,
        /// First byte.
        offset: u64,
        /// Most bytes.
        length: u64,
    },
    /// 12: the evidence that the answer before this asked for, from what runs the image.
    Evidence {
        /// In its envelope; the image believes nothing of it.
        cmw: &'a [u8],
    },
}

impl<'a> Request<'a> {
    /// Reads one request.
    ///
    /// # Errors
    /// `oversized_message`, `malformed_message`, `unknown_message`.
    pub fn read(message: &'a [u8]) -> Result<Self, Error> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Error::new(
                Code::OversizedMessage,
                format!(
                    "expected at most {MESSAGE_BYTES_MAX} bytes, got {}",
                    message.len()
                ),
            ));
        }
        let mut reader = Reader::new(message);
        let items = reader.array("message", 1, 16)?;
        let code = reader.uint("message code")?;
        let fields = field_count(code)?;
        if items != fields + 1 {
            return Err(Error::new(
                Code::MalformedMessage,
                format!(
                    "message {code}: expected {fields} fields, got {}",
                    items - 1
                ),
            ));
        }
        let request = Self::read_fields(code, &mut reader)?;
        reader.finish()?;
        Ok(request)
    }

    fn read_fields(code: u64, reader: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(match code {
            0 => Self::Launch {
                measurement: reader.fixed("measurement")?,
                threads: reader.uint("thread count")?,
            },
            1 => Self::Describe,
            2 => Self::Contract {
                contract: reader.bytes("contract", 1, CONTRACT_BYTES_MAX)?,
                signatures: {
                    let count = reader.array("signatures", 0, PARTIES_MAX)?;
                    (0..count)
                        .map(|_| reader.bytes_or_nil("signature", 0, DETACHED_BYTES_MAX))
                        .collect::<Result<_, _>>()?
                },
            },
            3 => Self::Attest {
                nonce: reader.fixed("nonce")?,
                policy: reader.fixed("policy digest")?,
            },
            4 => Self::Grant {
                party: reader.uint("party id")?,
                sealed: reader.bytes("sealed grant", 0, SEALED_GRANT_BYTES_MAX)?,
            },
            5 => Self::Shares,
            6 => Self::Deposited {
                party: reader.uint("party id")?,
                receipt: reader.bytes("receipt", 0, RECEIPT_BYTES_MAX)?,
            },
            7 => Self::DataBegin {
                dataset: reader.uint("dataset index")?,
                header: reader.bytes(
                    "dataset header",
                    0,
                    DATASET_PREFIX_BYTES + DATASET_HEADER_BYTES_MAX,
                )?,
            },
            8 => Self::DataChunk {
                chunk: reader.uint("chunk index")?,
                ciphertext: reader.bytes("chunk", 0, crate::limits::CHUNK_BYTES + TAG_BYTES)?,
            },
            9 => Self::Train {
                steps: reader.uint_within("steps", 1, u64::MAX)?,
            },
            10 => Self::Release,
            11 => Self::Fetch {
                output: reader.uint("output")?,
                offset: reader.uint("offset")?,
                length: reader.uint_within("length", 0, FETCH_BYTES_MAX)?,
            },
            12 => Self::Evidence {
                cmw: reader.bytes("evidence", 1, EVIDENCE_BYTES_MAX)?,
            },
            _ => return Err(unknown(code)),
        })
    }

    /// Writes the request, as a host does.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let head = |code: u64, fields: usize| Writer::new().array(fields + 1).uint(code);
        match self {
            Self::Launch {
                measurement,
                threads,
            } => head(0, 2).bytes(*measurement).uint(*threads),
            Self::Describe => head(1, 0),
            Self::Contract {
                contract,
                signatures,
            } => {
                let list = head(2, 2).bytes(contract).array(signatures.len());
                signatures
                    .iter()
                    .fold(list, |list, signature| list.bytes_or_nil(*signature))
            }
            Self::Attest { nonce, policy } => head(3, 2).bytes(*nonce).bytes(*policy),
            Self::Grant { party, sealed } => head(4, 2).uint(*party).bytes(sealed),
            Self::Shares => head(5, 0),
            Self::Deposited { party, receipt } => head(6, 2).uint(*party).bytes(receipt),
            Self::DataBegin { dataset, header } => head(7, 2).uint(*dataset).bytes(header),
            Self::DataChunk { chunk, ciphertext } => head(8, 2).uint(*chunk).bytes(ciphertext),
            Self::Train { steps } => head(9, 1).uint(*steps),
            Self::Release => head(10, 0),
            Self::Fetch {
                output,
                offset,
                length,
            } => head(11, 3).uint(*output).uint(*offset).uint(*length),
            Self::Evidence { cmw } => head(12, 1).bytes(cmw),
        }
        .finish()
    }
}

fn unknown(code: u64) -> Error {
    Error::new(Code::UnknownMessage, format!("no message has code {code}"))
}

fn field_count(code: u64) -> Result<usize, Error> {
    match code {
        1 | 5 | 10 => Ok(0),
        9 | 12 => Ok(1),
        0 | 2 | 3 | 4 | 6 | 7 | 8 => Ok(2),
        11 => Ok(3),
        _ => Err(unknown(code)),
    }
}

/// Starts the answer `[0, results…]` with room for `results` values.
#[must_use]
pub fn answer(results: usize) -> Writer {
    Writer::new().array(results + 1).uint(0)
}

/// The answer `[2, report data]`: evidence for it is wanted, from what runs the image.
#[must_use]
pub fn evidence_wanted(report_data: &[u8; REPORT_DATA_BYTES]) -> Vec<u8> {
    Writer::new().array(2).uint(2).bytes(report_data).finish()
}

/// The answer `[1, error number, detail]`. A fatal error's detail starts with `fatal: `.
#[must_use]
pub fn refusal(error: &Error) -> Vec<u8> {
    let mut detail = alloc::string::String::new();
    if error.fatal && error.code != Code::Dead {
        detail.push_str("fatal: ");
    }
    for character in error.detail.chars() {
        if detail.len() + character.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        detail.push(character);
    }
    Writer::new()
        .array(3)
        .uint(1)
        .uint(error.code.number().into())
        .text(&detail)
        .finish()
}
