"""A party's keys: one ES256 key to sign with, one X-Wing key to be sealed to.

``NAME.key`` is private, ``NAME.pub`` is what the other parties get. Both are TOML, so that people can look at
them; the secret part of a private key is base64, encrypted if a passphrase was given.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from myelin.contract.files import read_bounded, write_new
from myelin.errors import InputError, ProtocolError
from myelin.wire import SEALING_KEY_BYTES, SIGNING_KEY_BYTES, SealingKey, digest, encode, sealing_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Identity", "PublicIdentity"]

_SECRET_BYTES = 32 + 64 + 32
_MOST_FILE_BYTES = 64 << 10
_SCRYPT_LOG2_N = 16
_SCRYPT_BYTES = 16


@dataclass(frozen=True)
class PublicIdentity:
    """The public half of a party's keys.

    ``signing_key`` is 65 bytes (uncompressed SEC1 P-256), ``sealing_key`` 1,216 bytes (X-Wing).
    """

    name: str
    signing_key: bytes
    sealing_key: bytes

    @property
    def fingerprint(self) -> str:
        """What two people compare over the telephone: 32 hex digits of the digest of both keys."""
        return digest(encode([self.signing_key, self.sealing_key])).hex()[:32]

    def to_toml(self) -> str:
        """The text of ``NAME.pub``."""
        return (
            f"# Myelin public key, fingerprint {self.fingerprint}. Give this file to the other parties.\n"
            f"version = 1\nname = {_toml_text(self.name)}\n"
            f'signing_key = "{_base64(self.signing_key)}"\nsealing_key = "{_base64(self.sealing_key)}"\n'
        )

    @classmethod
    def load(cls, path: str | Path) -> PublicIdentity:
        """Read ``NAME.pub``; :class:`~myelin.errors.InputError` says what is wrong with it."""
        parsed = _parse(Path(path), _PublicFile)
        public = cls(
            parsed.name,
            _from_base64(parsed.signing_key, SIGNING_KEY_BYTES, f"{path}: signing_key"),
            _from_base64(parsed.sealing_key, SEALING_KEY_BYTES, f"{path}: sealing_key"),
        )
        public.check(str(path))
        return public

    def check(self, what: str) -> None:
        """Raise :class:`~myelin.errors.InputError` unless both keys can be used."""
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.signing_key)
            sealing_key(self.sealing_key, refusal="contract_malformed", what="sealing_key")
        except (ValueError, ProtocolError):
            raise InputError(
                f"{what}: expected a P-256 point and an X-Wing key, got bytes that are neither; "
                "ask its owner for the file again"
            ) from None


@dataclass(frozen=True)
class Identity:
    """A party's private keys. Its text form shows only the name; nothing secret is ever printed."""

    name: str
    signing: ec.EllipticCurvePrivateKey = field(repr=False)
    sealing: SealingKey = field(repr=False)
    _secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Draw new keys from the operating system's generator."""
        if not name or len(name.encode()) > 128 or not name.isprintable():
            raise InputError(f"name: expected 1 to 128 bytes of printable text, got {name[:40]!r}")
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        scalar = secrets.randbelow(order - 1) + 1
        return cls._from_secret(name, scalar.to_bytes(32, "big") + secrets.token_bytes(96))

    @classmethod
    def _from_secret(cls, name: str, secret: bytes) -> Identity:
        if len(secret) != _SECRET_BYTES:
            raise ValueError("length")
        signing = ec.derive_private_key(int.from_bytes(secret[:32], "big"), ec.SECP256R1())
        sealing = SealingKey(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(secret[32:96]),
            x25519.X25519PrivateKey.from_private_bytes(secret[96:]),
        )
        return cls(name, signing, sealing, secret)

    @property
    def public(self) -> PublicIdentity:
        """The public half."""
        point = self.signing.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(self._secret[32:96]).public_key().public_bytes_raw()
        x = x25519.X25519PrivateKey.from_private_bytes(self._secret[96:]).public_key().public_bytes_raw()
        return PublicIdentity(self.name, point, kem + x)

    def derive(self, label: str, salt: bytes) -> bytes:
        """Derive 32 secret bytes for one purpose; who has this private key can derive them again."""
        return HKDF(hashes.SHA256(), 32, salt, label.encode()).derive(self._secret)

    def save(self, directory: str | Path, *, passphrase: str | None = None) -> tuple[Path, Path]:
        """Write ``NAME.key`` (mode 0600) and ``NAME.pub``; neither may exist. Returns both paths."""
        if "/" in self.name or self.name in (".", ".."):
            raise InputError(f"name: {self.name!r} cannot be the name of a file")
        private = Path(directory) / f"{self.name}.key"
        public = Path(directory) / f"{self.name}.pub"
        for path in (private, public):
            if path.exists() or path.is_symlink():
                raise InputError(f"{path} exists; a key is never overwritten. Choose another name or folder")
        write_new(private, self._private_toml(passphrase).encode(), mode=0o600)
        write_new(public, self.public.to_toml().encode(), mode=0o644)
        return private, public

    def _private_toml(self, passphrase: str | None) -> str:
        text = (
            f"# Myelin PRIVATE key of {_toml_text(self.name)}. Who has this file can spend the budget and "
            f"read the results.\nversion = 1\nname = {_toml_text(self.name)}\n"
        )
        if passphrase is None:
            return text + f'encryption = "none"\nsecret = "{_base64(self._secret)}"\n'
        salt, nonce = os.urandom(_SCRYPT_BYTES), os.urandom(12)
        key = _passphrase_key(passphrase, salt)
        sealed = nonce + AESGCM(key).encrypt(nonce, self._secret, self.name.encode())
        return (
            text
            + f'encryption = "scrypt-aes256gcm"\nsalt = "{_base64(salt)}"\nsecret = "{_base64(sealed)}"\n'
        )

    @classmethod
    def load(cls, path: str | Path, *, passphrase: str | None = None) -> Identity:
        """Read ``NAME.key``; :class:`~myelin.errors.InputError` if it cannot be used or opened.

        The file must be readable by its owner alone.
        """
        path = Path(path)
        parsed = _parse(path, _PrivateFile)
        if path.stat().st_mode & 0o077:
            raise InputError(
                f"{path}: expected a file that only its owner may read, got mode "
                f"{path.stat().st_mode & 0o777:04o}; run: chmod 600 {path}"
            )
        if parsed.encryption == "none":
            secret = _from_base64(parsed.secret, _SECRET_BYTES, f"{path}: secret")
        else:
            if passphrase is None:
                raise InputError(f"{path} is encrypted; a passphrase is needed")
            salt = _from_base64(parsed.salt or "", _SCRYPT_BYTES, f"{path}: salt")
            sealed = _from_base64(parsed.secret, _SECRET_BYTES + 28, f"{path}: secret")
            try:
                key = _passphrase_key(passphrase, salt)
                secret = AESGCM(key).decrypt(sealed[:12], sealed[12:], parsed.name.encode())
            except InvalidTag:
                raise InputError(f"{path}: wrong passphrase, or the file was altered") from None
        try:
            return cls._from_secret(parsed.name, secret)
        except ValueError:
            raise InputError(f"{path}: secret holds no usable keys") from None

    @staticmethod
    def is_encrypted(path: str | Path) -> bool:
        """Whether :meth:`load` needs a passphrase for this file."""
        return _parse(Path(path), _PrivateFile).encryption != "none"


class _PublicFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    signing_key: str
    sealing_key: str


class _PrivateFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    encryption: Literal["none", "scrypt-aes256gcm"]
    salt: str | None = None
    secret: str


_AnyFile = TypeVar("_AnyFile", _PublicFile, _PrivateFile)


def _parse(path: Path, model: type[_AnyFile]) -> _AnyFile:
    kind = "private" if model is _PrivateFile else "public"
    try:
        return model.model_validate(tomllib.loads(read_bounded(path, _MOST_FILE_BYTES).decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):  # their text could quote the secret
        raise InputError(f"{path}: expected a Myelin {kind} key (TOML), got something else") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: expected a Myelin {kind} key, but {place}: {first['msg']}") from None


def _passphrase_key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << _SCRYPT_LOG2_N, r=8, p=1).derive(passphrase.encode())


def _toml_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str, size_bytes: int, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{what}: expected base64") from None
    if len(data) != size_bytes:
        raise InputError(f"{what}: expected {size_bytes} bytes, got {len(data)}")
    return data
