//! Public-key sealing: HPKE (RFC 9180) base mode with X-Wing (0x647A), HKDF-SHA256 (0x0001) and ChaCha20-Poly1305 (0x0003).
//!
//! One sealed message is `encapsulation (1120) ‖ ciphertext ‖ tag (16)`; the additional data is empty, and what is bound
//! is in `info`. `cryptography`'s HPKE module is the other implementation, and is tested against this one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, XWing};
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable as _, OpModeR, OpModeS, Serializable as _};
use myelin_wire::limits::{ENCAPSULATION_BYTES, SEAL_BYTES, SEALING_KEY_BYTES, TAG_BYTES};
use myelin_wire::{Code, Entropy, Error};
use zeroize::Zeroizing;

use crate::Secret;

type HpkePrivateKey = <XWing as Kem>::PrivateKey;
type HpkePublicKey = <XWing as Kem>::PublicKey;
type EncappedKey = <XWing as Kem>::EncappedKey;

/// Why a sealed message did not open. It says nothing more: the sender chose every byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealable;

/// The private key that messages to this boot are sealed to; wiped when dropped.
pub struct OpeningKey {
    private: Box<HpkePrivateKey>,
    public: Box<[u8; SEALING_KEY_BYTES]>,
}

impl core::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("OpeningKey(redacted)")
    }
}

impl OpeningKey {
    /// Draws a key pair: an X-Wing private key is a seed of 32 bytes.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn generate(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let seed = Secret::generate(entropy)?;
        let private = HpkePrivateKey::from_bytes(seed.expose())
            .map_err(|_| Error::new(Code::EntropyFailed, "no X-Wing key from a seed"))?;
        let private = Box::new(private);
        let mut public = Box::new([0; SEALING_KEY_BYTES]);
        XWing::sk_to_pk(&private).write_exact(public.as_mut_slice());
        Ok(Self { private, public })
    }

    /// The public key, `ML-KEM-768 ‖ X25519`.
    #[must_use]
    pub fn public_key(&self) -> &[u8; SEALING_KEY_BYTES] {
        &self.public
    }

    /// Opens a sealed message whose sender bound `info`.
    ///
    /// # Errors
    /// [`Unsealable`] for any other key, `info`, or a changed, cut or extended message.
    pub fn open(&self, info: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let body = sealed.len().checked_sub(SEAL_BYTES).ok_or(Unsealable)?;
        let (encapsulation, rest) = sealed
            .split_at_checked(ENCAPSULATION_BYTES)
            .ok_or(Unsealable)?;
        let (ciphertext, tag) = rest.split_at_checked(body).ok_or(Unsealable)?;
        let encapsulation = EncappedKey::from_bytes(encapsulation).map_err(|_| Unsealable)?;
        let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(tag).map_err(|_| Unsealable)?;
        let mut plain = Zeroizing::new(ciphertext.to_vec());
        hpke::single_shot_open_inout_detached::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.private,
            &encapsulation,
            info,
            plain.as_mut_slice().into(),
            &[],
            &tag,
        )
        .map_err(|_| Unsealable)?;
        Ok(plain)
    }
}

/// Somebody's public key, which sealed messages are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKey(Box<HpkePublicKey>);

impl SealingKey {
    /// Reads and checks a public key (FIPS 203 section 7.2: the encoding must be that of reduced coefficients).
    ///
    /// # Errors
    /// `malformed_message`.
    pub fn new(bytes: &[u8; SEALING_KEY_BYTES]) -> Result<Self, Error> {
        HpkePublicKey::from_bytes(bytes)
            .map(|key| Self(Box::new(key)))
            .map_err(|_| {
                Error::new(
                    Code::MalformedMessage,
                    "sealing key: expected an X-Wing public key",
                )
            })
    }

    /// Seals `plain` so that only the holder of the private key opens it, and only with the same `info`.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn seal(
        &self,
        info: &[u8],
        plain: &[u8],
        entropy: &mut impl Entropy,
    ) -> Result<Vec<u8>, Error> {
        let mut randomness = Drawn::from(entropy)?;
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES);
        sealed.resize(ENCAPSULATION_BYTES, 0);
        sealed.extend_from_slice(plain);
        let (encapsulation, body) = sealed
            .split_at_mut_checked(ENCAPSULATION_BYTES)
            .ok_or_else(failed)?;
        let (key, tag) =
            hpke::single_shot_seal_inout_detached_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
                &OpModeS::Base,
                &self.0,
                info,
                body.into(),
                &[],
                &mut randomness,
            )
            .map_err(|_| failed())?;
        if randomness.exhausted {
            return Err(failed());
        }
        key.write_exact(encapsulation);
        let mut tag_bytes = [0; TAG_BYTES];
        tag.write_exact(&mut tag_bytes);
        sealed.extend_from_slice(&tag_bytes);
        Ok(sealed)
    }
}

fn failed() -> Error {
    Error::new(Code::EntropyFailed, "sealing failed")
}

/// Randomness for one encapsulation (X-Wing takes 64 bytes), drawn before, since an HPKE random number generator may not
/// fail. Should a sender ask for more, `exhausted` is set and what was sealed is thrown away.
struct Drawn {
    bytes: Zeroizing<[u8; 64]>,
    used: usize,
    exhausted: bool,
}

impl Drawn {
    fn from(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; 64]);
        entropy.fill(bytes.as_mut_slice())?;
        Ok(Self {
            bytes,
            used: 0,
            exhausted: false,
        })
    }
}

impl TryRng for Drawn {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        let end = self.used.saturating_add(out.len());
        match self.bytes.get(self.used..end) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                self.used = end;
            }
            None => self.exhausted = true,
        }
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}
