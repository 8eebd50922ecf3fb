//! Opening a sealed dataset as it streams in, protocol section 5: STREAM chunks of ChaCha20-Poly1305.
//!
//! Each chunk is decrypted only after its tag has verified at exactly its place, and the last one is given out only if all
//! bytes of the file, from the magic on, have the digest of the contract.
//!
//! A tag alone does not say which key it was made with: who chooses two keys can make one chunk that opens under both, to
//! different records. So the header commits to the key, and one digest stands for one set of records.

use alloc::format;
use alloc::vec::Vec;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use myelin_boundary::{Public, public};
use myelin_wire::limits::{CHUNK_BYTES, DATASET_HEADER_BYTES_MAX, TAG_BYTES};
use myelin_wire::{Code, Digest, Error, Reader, RunningDigest, Writer, sha256};
use zeroize::Zeroizing;

use crate::Secret;
use crate::derive::{hkdf, key_commitment};

/// First bytes of a sealed dataset.
pub const MAGIC: &[u8; 8] = b"MYELDS01";
const KEYS: &[&str] = &[
    "salt",
    "schema",
    "records",
    "version",
    "commitment",
    "chunk_bytes",
    "record_bytes",
];

/// What the contract and the plan say about a dataset.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// SHA-256 of the sealed file.
    pub digest: &'a Digest,
    /// Digest of the schema.
    pub schema: &'a Digest,
    /// How many records.
    pub records: u64,
    /// Bytes of one plaintext record.
    pub record_bytes: u64,
}

/// A dataset that is being opened; wiped when dropped.
pub struct DatasetOpener {
    cipher: ChaCha20Poly1305,
    expected_digest: Digest,
    running: RunningDigest,
    chunks: u32,
    next: u32,
    last_bytes: usize,
    plain: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for DatasetOpener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DatasetOpener({} of {} chunks)", self.next, self.chunks)
    }
}

fn header_invalid(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::DataHeaderInvalid, detail)
}

fn chunk_invalid(detail: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::DataChunkInvalid, detail)
}

impl DatasetOpener {
    /// Reads the file's first bytes, `"MYELDS01" ‖ u32 LE header length ‖ header`, and compares them with what is expected.
    ///
    /// # Errors
    /// `data_header_invalid`; `data_too_large` for more chunks than nonces.
    pub fn begin(data_key: &Secret, prefix: &[u8], expected: &Expected<'_>) -> Result<Self, Error> {
        let header = split_prefix(prefix)?;
        let (salt, commitment) =
            read_header(header, expected).map_err(|error| header_invalid(error.detail))?;
        let is_its_key = key_commitment(data_key, &salt)?.equals(&commitment);
        if !public(is_its_key, Public::Opens) {
            return Err(header_invalid("commitment: sealed with another key"));
        }
        let bytes = expected
            .records
            .checked_mul(expected.record_bytes)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| {
                header_invalid("records × record_bytes: expected 1 to 2^64 - 1 bytes")
            })?;
        let chunks = u32::try_from(bytes.div_ceil(CHUNK_BYTES as u64))
            .map_err(|_| Error::new(Code::DataTooLarge, "more than 2^32 - 1 chunks"))?;
        // Between 1 and CHUNK_BYTES, since there is at least one byte.
        let last_bytes = bytes - u64::from(chunks - 1) * CHUNK_BYTES as u64;
        let info = Writer::info("myelin/dataset/v1", 1)
            .bytes(&sha256(header))
            .finish();
        let key = hkdf(data_key, &salt, &info)?;
        let mut running = RunningDigest::default();
        running.update(prefix);
        Ok(Self {
            cipher: ChaCha20Poly1305::new(<&Key>::from(key.expose())),
            expected_digest: *expected.digest,
            running,
            chunks,
            next: 0,
            last_bytes: usize::try_from(last_bytes).unwrap_or(CHUNK_BYTES),
            plain: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES)),
        })
    }

    /// How many chunks the file has.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// How many chunks are still to come.
    #[must_use]
    pub fn missing(&self) -> u32 {
        self.chunks - self.next
    }

    /// Opens the next chunk and answers its plaintext. On an error nothing has changed.
    ///
    /// # Errors
    /// `out_of_order` for another index than the next, `data_chunk_invalid` for one that does not decrypt at this place,
    /// `data_digest_mismatch` at the last one, if the file is not the contract's.
    pub fn open(&mut self, index: u64, ciphertext: &[u8]) -> Result<&[u8], Error> {
        if self.next == self.chunks || index != u64::from(self.next) {
            let detail = format!(
                "expected chunk {} of {}, got {index}",
                self.next, self.chunks
            );
            return Err(Error::new(Code::OutOfOrder, detail));
        }
        let is_last = self.missing() == 1;
        let bytes = if is_last {
            self.last_bytes
        } else {
            CHUNK_BYTES
        };
        if ciphertext.len() != bytes + TAG_BYTES {
            let detail = format!(
                "chunk {index}: expected {} bytes, got {}",
                bytes + TAG_BYTES,
                ciphertext.len()
            );
            return Err(chunk_invalid(detail));
        }
        let (body, tag) = ciphertext
            .split_at_checked(bytes)
            .ok_or_else(|| chunk_invalid("too short"))?;
        let tag = <&Tag>::try_from(tag).map_err(|_| chunk_invalid("too short"))?;
        self.plain.clear();
        self.plain.extend_from_slice(body);
        let nonce = nonce(self.next, is_last);
        if self
            .cipher
            .decrypt_inout_detached(&nonce, &[], self.plain.as_mut_slice().into(), tag)
            .is_err()
        {
            self.plain.clear();
            return Err(chunk_invalid(format!(
                "chunk {index} does not decrypt at this place"
            )));
        }
        let mut running = self.running.clone();
        running.update(ciphertext);
        if is_last && running.clone().finish() != self.expected_digest {
            // Zeroises the length that is cleared as well as the spare capacity.
            zeroize::Zeroize::zeroize(&mut *self.plain);
            return Err(Error::new(
                Code::DataDigestMismatch,
                "all chunks decrypt, but the file is not the one in the contract",
            ));
        }
        self.running = running;
        self.next += 1;
        Ok(&self.plain)
    }
}

/// Nonce of a chunk: 7 zero bytes ‖ u32 big-endian index ‖ last flag.
fn nonce(index: u32, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    for (to, from) in nonce.iter_mut().skip(7).zip(index.to_be_bytes()) {
        *to = from;
    }
    if let Some(flag) = nonce.last_mut() {
        *flag = u8::from(is_last);
    }
    nonce.into()
}

fn split_prefix(prefix: &[u8]) -> Result<&[u8], Error> {
    let rest = prefix
        .strip_prefix(MAGIC)
        .ok_or_else(|| header_invalid("expected the magic MYELDS01"))?;
    let (length, header) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| header_invalid("cut before its length"))?;
    let length = u32::from_le_bytes(*length);
    if header.len() > DATASET_HEADER_BYTES_MAX {
        return Err(header_invalid(format!(
            "expected at most {DATASET_HEADER_BYTES_MAX} bytes, got {}",
            header.len()
        )));
    }
    if usize::try_from(length) != Ok(header.len()) {
        return Err(header_invalid(format!(
            "says {length} bytes, has {}",
            header.len()
        )));
    }
    Ok(header)
}

/// Answers the salt, and what the header says of its key.
fn read_header(header: &[u8], expected: &Expected<'_>) -> Result<(Digest, Secret), Error> {
    let mut reader = Reader::new(header);
    reader.map("dataset header", KEYS)?;
    reader.key("salt", KEYS)?;
    let salt = *reader.fixed("salt")?;
    reader.key("schema", KEYS)?;
    if reader.fixed("schema")? != expected.schema {
        return Err(header_invalid("schema: not the contract's"));
    }
    reader.key("records", KEYS)?;
    reader.uint_within("records", expected.records, expected.records)?;
    reader.key("version", KEYS)?;
    reader.uint_within("version", 1, 1)?;
    reader.key("commitment", KEYS)?;
    let commitment = Secret::copied_from(reader.fixed("commitment")?);
    reader.key("chunk_bytes", KEYS)?;
    reader.uint_within("chunk_bytes", CHUNK_BYTES as u64, CHUNK_BYTES as u64)?;
    reader.key("record_bytes", KEYS)?;
    reader.uint_within("record_bytes", expected.record_bytes, expected.record_bytes)?;
    reader.finish()?;
    Ok((salt, commitment))
}
