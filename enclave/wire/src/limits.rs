//! Sizes that are fixed by the protocol, and the most of everything that is read.

/// Most bytes of one message or one answer.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a digest, a nonce, a key of a symmetric algorithm, a boot id, a run.
pub const DIGEST_BYTES: usize = 32;
/// Bytes of report data.
pub const REPORT_DATA_BYTES: usize = 64;
/// Bytes of a P-256 public key, uncompressed SEC1.
pub const SIGNING_KEY_BYTES: usize = 65;
/// Bytes of an ES256 signature, `r ‖ s`.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of an X-Wing public key.
pub const SEALING_KEY_BYTES: usize = 1216;
/// Bytes of an X-Wing encapsulation.
pub const ENCAPSULATION_BYTES: usize = 1120;
/// Bytes of a ChaCha20-Poly1305 tag.
pub const TAG_BYTES: usize = 16;
/// Bytes that sealing adds to a plaintext.
pub const SEAL_BYTES: usize = ENCAPSULATION_BYTES + TAG_BYTES;
/// Most bytes of a contract.
pub const CONTRACT_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of evidence in its envelope.
pub const EVIDENCE_BYTES_MAX: usize = 256 * 1024;
/// Most coefficients of correlated noise.
pub const BANDS_MAX: usize = 64;
/// Most numbers of a clipping rule.
pub const CLIPPING_NUMBERS_MAX: usize = 1024;
/// Most augmentations that follow each other.
pub const AUGMENTATIONS_MAX: usize = 8;
/// Most numbers of an augmentation.
pub const AUGMENTATION_NUMBERS_MAX: usize = 1;
/// Most bytes of a name in a contract.
pub const NAME_BYTES_MAX: usize = 128;
/// Fewest parties of a contract.
pub const PARTIES_MIN: usize = 2;
/// Most parties of a contract.
pub const PARTIES_MAX: usize = 32;
/// Most records of one dataset.
pub const RECORDS_MAX: u64 = 1 << 31;
/// Most bytes of a signature as a COSE_Sign1 with detached payload.
pub const DETACHED_BYTES_MAX: usize = 256;
/// Most bytes of a deposit receipt.
pub const RECEIPT_BYTES_MAX: usize = 512;
/// Most bytes of a sealed grant or deposit.
pub const SEALED_GRANT_BYTES_MAX: usize = SEAL_BYTES + 512;
/// Bytes of plaintext in every chunk of a dataset but the last.
pub const CHUNK_BYTES: usize = 65_536;
/// Most bytes of a dataset's header, without the magic and the length before it.
pub const DATASET_HEADER_BYTES_MAX: usize = 4096;
/// Most bytes that one `fetch` answers.
pub const FETCH_BYTES_MAX: u64 = 512 * 1024;
/// Most bytes of an error's detail that cross the boundary.
pub const DETAIL_BYTES_MAX: usize = 256;
