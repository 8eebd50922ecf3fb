//! COSE_Sign1 (RFC 9052) with ES256: untagged array of four, protected header `{1: -7, 3: content type}`, nothing
//! unprotected, no external data, signature `r ‖ s`.

use alloc::vec::Vec;

use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::limits::{SIGNATURE_BYTES, SIGNING_KEY_BYTES};
use crate::{Code, Entropy, Error, Reader, Writer};

/// Content type of a contract's signatures.
pub const CONTRACT_TYPE: &str = "application/vnd.myelin.contract+cbor";
/// Content type of an enclave's deposit.
pub const DEPOSIT_TYPE: &str = "application/vnd.myelin.deposit+cbor";
/// Content type of a broker's receipt for a deposit.
pub const RECEIPT_TYPE: &str = "application/vnd.myelin.deposit-receipt+cbor";
/// Content type of a certificate.
pub const CERTIFICATE_TYPE: &str = "application/vnd.myelin.certificate+cbor";

/// The longest content type that can be written into a protected header with a one-byte length.
const TYPE_BYTES_MAX: usize = 200;

/// A P-256 signing key that never leaves this memory; wiped when dropped.
pub struct Signer {
    key: SigningKey,
}

impl core::fmt::Debug for Signer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

impl Signer {
    /// Draws a key.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn generate(entropy: &mut impl Entropy) -> Result<Self, Error> {
        // A draw misses the range of scalars with probability below 2^-32, so four misses mean broken entropy.
        for _ in 0..4 {
            let mut scalar = Zeroizing::new([0_u8; 32]);
            entropy.fill(scalar.as_mut_slice())?;
            if let Ok(key) = SigningKey::from_slice(scalar.as_slice()) {
                return Ok(Self { key });
            }
        }
        Err(Error::new(
            Code::EntropyFailed,
            "no valid P-256 scalar in four draws",
        ))
    }

    /// The public key, uncompressed SEC1.
    #[must_use]
    pub fn public_key(&self) -> [u8; SIGNING_KEY_BYTES] {
        let point = self.key.verifying_key().to_sec1_point(false);
        let mut bytes = [0; SIGNING_KEY_BYTES];
        for (to, from) in bytes.iter_mut().zip(point.as_bytes()) {
            *to = *from;
        }
        bytes
    }

    /// A COSE_Sign1 that carries `payload`. Deterministic (RFC 6979).
    #[must_use]
    pub fn sign(&self, content_type: &str, payload: &[u8]) -> Vec<u8> {
        self.build(content_type, payload, Some(payload))
    }

    /// A COSE_Sign1 over `payload` that does not carry it.
    #[must_use]
    pub fn sign_detached(&self, content_type: &str, payload: &[u8]) -> Vec<u8> {
        self.build(content_type, payload, None)
    }

    fn build(&self, content_type: &str, payload: &[u8], carried: Option<&[u8]>) -> Vec<u8> {
        let header = protected(content_type);
        let signature: Signature = self.key.sign(&to_be_signed(&header, payload));
        Writer::with_capacity(payload.len() + 256)
            .array(4)
            .bytes(&header)
            .map(0)
            .bytes_or_nil(carried)
            .bytes(&signature.to_bytes())
            .finish()
    }
}

/// A P-256 public key that is a point on the curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    key: VerifyingKey,
}

impl Verifier {
    /// Reads an uncompressed SEC1 point.
    ///
    /// # Errors
    /// `malformed_message` for what is not a point on P-256 other than the identity.
    pub fn new(bytes: &[u8; SIGNING_KEY_BYTES]) -> Result<Self, Error> {
        // 65 bytes can only be the uncompressed (4) or the hybrid form (6, 7); the latter is not of this protocol.
        match (bytes.first(), VerifyingKey::from_sec1_bytes(bytes)) {
            (Some(4), Ok(key)) => Ok(Self { key }),
            _ => Err(Error::new(
                Code::MalformedMessage,
                "signing key: expected an uncompressed point on P-256",
            )),
        }
    }

    /// Verifies a COSE_Sign1 and answers the payload that it carries.
    ///
    /// # Errors
    /// `signature_invalid` for any other form, header or signature.
    pub fn open<'a>(&self, content_type: &str, sign1: &'a [u8]) -> Result<&'a [u8], Error> {
        let parts = Sign1::read(content_type, sign1)?;
        let payload = parts.payload.ok_or_else(|| invalid("no payload"))?;
        self.check(content_type, payload, parts.signature)?;
        Ok(payload)
    }

    /// Verifies a COSE_Sign1 over `payload` that does not carry it.
    ///
    /// # Errors
    /// `signature_invalid` for any other form, header or signature.
    pub fn verify_detached(
        &self,
        content_type: &str,
        sign1: &[u8],
        payload: &[u8],
    ) -> Result<(), Error> {
        let parts = Sign1::read(content_type, sign1)?;
        if parts.payload.is_some() {
            return Err(invalid("the payload must be detached"));
        }
        self.check(content_type, payload, parts.signature)
    }

    fn check(
        &self,
        content_type: &str,
        payload: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), Error> {
        let signature =
            Signature::from_slice(signature).map_err(|_| invalid("r or s out of range"))?;
        self.key
            .verify(&to_be_signed(&protected(content_type), payload), &signature)
            .map_err(|_| invalid("does not verify"))
    }
}

struct Sign1<'a> {
    payload: Option<&'a [u8]>,
    signature: &'a [u8; SIGNATURE_BYTES],
}

impl<'a> Sign1<'a> {
    fn read(content_type: &str, sign1: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(sign1);
        let mut read = || {
            reader.array("COSE_Sign1", 4, 4)?;
            let header = reader.bytes("protected header", 0, TYPE_BYTES_MAX + 16)?;
            reader.map("unprotected header", &[])?;
            let payload = reader.bytes_or_nil("payload", 0, usize::MAX)?;
            let signature = reader.fixed("signature")?;
            Ok((header, Self { payload, signature }))
        };
        let (header, parts) =
            read().map_err(|error: Error| Error::new(Code::SignatureInvalid, error.detail))?;
        reader.finish().map_err(|_| invalid("trailing bytes"))?;
        if header != protected(content_type) {
            return Err(invalid("another algorithm or content type"));
        }
        Ok(parts)
    }
}

fn invalid(detail: &'static str) -> Error {
    Error::new(Code::SignatureInvalid, detail)
}

/// `{1: -7, 3: content type}`: algorithm ES256 and content type, RFC 9052 section 3.1.
fn protected(content_type: &str) -> Vec<u8> {
    let mut header = Vec::from([0xa2, 0x01, 0x26, 0x03]);
    header.extend(Writer::new().text(content_type).finish());
    header
}

/// `Sig_structure`, RFC 9052 section 4.4.
fn to_be_signed(header: &[u8], payload: &[u8]) -> Vec<u8> {
    Writer::with_capacity(payload.len() + 256)
        .array(4)
        .text("Signature1")
        .bytes(header)
        .bytes(&[])
        .bytes(payload)
        .finish()
}
