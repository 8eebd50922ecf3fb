"""A certificate as it was signed inside: what was run, on what, under which contract (protocol section 9)."""

from __future__ import annotations

from dataclasses import dataclass

from myelin.contract import DpEvent
from myelin.wire import (
    DIGEST_BYTES,
    SEALING_KEY_BYTES,
    SIGNING_KEY_BYTES,
    Shape,
    decode,
    encode,
    signed_payload,
)

__all__ = ["CERTIFICATE_TYPE", "MOST_BUNDLE_BYTES", "Certificate", "CertificateBundle", "SealedModelRef"]

CERTIFICATE_TYPE = "application/vnd.myelin.certificate+cbor"
"""Content type of a certificate's signature."""

MOST_BUNDLE_BYTES = 1 << 20
"""Longest bundle file."""

_REFUSAL = "malformed_message"
_SHAPE = Shape(_REFUSAL, "unknown_field")
_MOST_PARTIES = 32


@dataclass(frozen=True)
class SealedModelRef:
    """Digest of the model as sealed to one recipient (party id)."""

    recipient: int
    digest: bytes


@dataclass(frozen=True)
class Certificate:
    """The signed claims; believe nothing in them before :func:`~myelin.certificate.verify` has checked them.

    ``model`` is the digest of the plain safetensors file; ``records`` and ``nonfinite`` are ``None`` where
    the contract does not release them.
    """

    measurement: bytes
    contract: bytes
    plan: bytes
    run: bytes
    hpke_key: bytes
    signing_key: bytes
    event: DpEvent
    model: bytes
    sealed_models: tuple[SealedModelRef, ...]
    records: tuple[int, ...] | None
    nonfinite: int | None

    def to_bytes(self) -> bytes:
        """The payload that the enclave signs."""
        return encode(
            {
                "version": 1,
                "measurement": self.measurement,
                "contract": self.contract,
                "plan": self.plan,
                "run": self.run,
                "hpke_key": self.hpke_key,
                "signing_key": self.signing_key,
                "event": self.event.to_map(),
                "model": self.model,
                "sealed_models": [{"recipient": m.recipient, "digest": m.digest} for m in self.sealed_models],
                "records": None if self.records is None else list(self.records),
                "nonfinite": self.nonfinite,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Certificate:
        """Read a payload; raises ``malformed_message`` or ``unknown_field``."""
        value = decode(data, refusal=_REFUSAL, what="certificate")
        fields = _SHAPE.map(value, "certificate", _KEYS)
        _SHAPE.uint(fields["version"], "certificate, version", least=1, most=1)
        digests = {
            name: _SHAPE.bytes(fields[name], f"certificate, {name}", size=DIGEST_BYTES)
            for name in ("measurement", "contract", "plan", "run", "model")
        }
        models = _SHAPE.array(fields["sealed_models"], "certificate, sealed_models", most=_MOST_PARTIES)
        records = fields["records"]
        nonfinite = fields["nonfinite"]
        return cls(
            **digests,
            hpke_key=_SHAPE.bytes(fields["hpke_key"], "certificate, hpke_key", size=SEALING_KEY_BYTES),
            signing_key=_SHAPE.bytes(
                fields["signing_key"], "certificate, signing_key", size=SIGNING_KEY_BYTES
            ),
            event=DpEvent.from_map(fields["event"], refusal=_REFUSAL),
            sealed_models=tuple(_model_ref(item) for item in models),
            records=None if records is None else tuple(_records(records)),
            nonfinite=None if nonfinite is None else _SHAPE.uint(nonfinite, "certificate, nonfinite"),
        )


_KEYS = (
    "version",
    "measurement",
    "contract",
    "plan",
    "run",
    "hpke_key",
    "signing_key",
    "event",
    "model",
    "sealed_models",
    "records",
    "nonfinite",
)


def _model_ref(item: object) -> SealedModelRef:
    fields = _SHAPE.map(item, "certificate, sealed model", ("recipient", "digest"))
    return SealedModelRef(
        _SHAPE.uint(fields["recipient"], "certificate, recipient", most=_MOST_PARTIES - 1),
        _SHAPE.bytes(fields["digest"], "certificate, sealed model", size=DIGEST_BYTES),
    )


def _records(value: object) -> list[int]:
    items = _SHAPE.array(value, "certificate, records", most=_MOST_PARTIES)
    return [_SHAPE.uint(item, "certificate, records") for item in items]


@dataclass(frozen=True)
class CertificateBundle:
    """The file: the enclave's COSE_Sign1 and the evidence for the key that made it, with the claims read."""

    signed: bytes
    evidence: bytes
    certificate: Certificate

    @classmethod
    def from_bytes(cls, data: bytes) -> CertificateBundle:
        """Read the form of a bundle; nothing is checked yet. Raises ``malformed_message`` and the like."""
        value = decode(data, most_bytes=MOST_BUNDLE_BYTES, refusal=_REFUSAL, what="certificate file")
        array = _SHAPE.array(value, "certificate file", size=3)
        if array[0] != "myelin-certificate":
            raise _SHAPE.refuse("certificate file", "a Myelin certificate", "another document")
        signed = _SHAPE.bytes(array[1], "certificate file, signature", most=MOST_BUNDLE_BYTES)
        evidence = _SHAPE.bytes(array[2], "certificate file, evidence", most=MOST_BUNDLE_BYTES)
        payload = signed_payload(signed, malformed=_REFUSAL, what="certificate")
        return cls(signed, evidence, Certificate.from_bytes(payload))

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return encode(["myelin-certificate", self.signed, self.evidence])
