"""The contract: what every owner and the researcher sign (protocol section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from myelin.contract.event import DpEvent
from myelin.contract.files import read_bounded, write_whole
from myelin.contract.keys import Identity
from myelin.errors import InputError, ProtocolError
from myelin.wire import (
    DIGEST_BYTES,
    SEALING_KEY_BYTES,
    SIGNING_KEY_BYTES,
    Shape,
    Value,
    decode,
    digest,
    encode,
    sealing_key,
    sign1,
    verify1,
)

__all__ = [
    "ANCHORS",
    "CONTRACT_TYPE",
    "MOST_CONTRACT_BYTES",
    "Budget",
    "Contract",
    "Dataset",
    "Party",
    "SignedContract",
]

CONTRACT_TYPE = "application/vnd.myelin.contract+cbor"
"""Content type of a signature on a contract."""

MOST_CONTRACT_BYTES = 256 << 10
"""Longest contract."""

ANCHORS = ("log", "tpm", "witnesses")
"""What a ledger can be anchored by, so that an older copy of it is worth nothing (``docs/broker.md``)."""

_MOST_SIGNED_BYTES = MOST_CONTRACT_BYTES + 32 * 264 + 64
_MOST_PARTIES = 32
_MOST_RECORDS = 1 << 31
_MOST_UINT = (1 << 64) - 1
_SHAPE = Shape("contract_malformed")


@dataclass(frozen=True)
class Budget:
    """A bound on privacy loss: ε in millionths, δ in units of 10⁻¹⁵."""

    epsilon_e6: int
    delta_e15: int

    @classmethod
    def of(cls, epsilon: str | float, delta: str | float) -> Budget:
        """Make a budget from decimal numbers, rounding down; both must be positive, and δ below 1."""
        parts = []
        for value, scale, what in ((epsilon, 6, "epsilon"), (delta, 15, "delta")):
            try:
                number = Decimal(str(value)).scaleb(scale)
            except ArithmeticError:  # what decimal raises, for no number and for one out of all range
                raise InputError(f"{what}: expected a number, got {value!r}") from None
            if not number.is_finite() or not 1 <= number <= _MOST_UINT:
                raise InputError(f"{what}: expected a number of at least 1e-{scale}, got {value!r}")
            parts.append(int(number))
        if parts[1] >= 10**15:
            raise InputError(f"delta: expected less than 1, got {delta!r}")
        return cls(parts[0], parts[1])

    @property
    def epsilon(self) -> float:
        """ε."""
        return self.epsilon_e6 / 1e6

    @property
    def delta(self) -> float:
        """δ."""
        return self.delta_e15 / 1e15

    def allows(self, epsilon: float) -> bool:
        """Whether a privacy loss of ``epsilon`` at this budget's δ is within it."""
        return epsilon * 1e6 <= self.epsilon_e6


@dataclass(frozen=True)
class Party:
    """A party and its public keys. Its party id is its index in the contract."""

    name: str
    role: str
    signing_key: bytes
    sealing_key: bytes


@dataclass(frozen=True)
class Dataset:
    """An owner's sealed dataset: digest of the file, digest of its schema, number of records."""

    owner: int
    digest: bytes
    schema: bytes
    records: int


@dataclass(frozen=True)
class Contract:
    """One training run that everybody agrees to; field names and meaning as in the protocol.

    ``budgets`` has one entry per owner, in order of party id. ``anchors`` names what every owner's broker
    must anchor its ledger by before a key leaves, of :data:`ANCHORS`. Made by :meth:`from_bytes` or by a
    draft; the constructor checks nothing, so that tests can make wrong ones.
    """

    name: str
    measurement: bytes
    plan: bytes
    parties: tuple[Party, ...]
    datasets: tuple[Dataset, ...]
    event: DpEvent
    budgets: tuple[Budget, ...]
    recipients: tuple[int, ...]
    release_records: bool
    release_nonfinite: bool
    policy: bytes
    expires_s: int
    anchors: tuple[str, ...] = ()

    @property
    def owners(self) -> tuple[int, ...]:
        """Party ids of the owners, ascending."""
        return tuple(i for i, party in enumerate(self.parties) if party.role == "owner")

    def budget_of(self, owner: int) -> Budget:
        """The budget of the owner with this party id."""
        return self.budgets[self.owners.index(owner)]

    def to_bytes(self) -> bytes:
        """The contract's one encoding; its SHA-256 is the contract's digest."""
        return encode(
            {
                "version": 2,
                "name": self.name,
                "measurement": self.measurement,
                "plan": self.plan,
                "parties": [
                    {
                        "name": party.name,
                        "role": party.role,
                        "signing_key": party.signing_key,
                        "sealing_key": party.sealing_key,
                    }
                    for party in self.parties
                ],
                "datasets": [
                    {"owner": d.owner, "digest": d.digest, "schema": d.schema, "records": d.records}
                    for d in self.datasets
                ],
                "event": self.event.to_map(),
                "budgets": [
                    {"owner": owner, "epsilon_e6": budget.epsilon_e6, "delta_e15": budget.delta_e15}
                    for owner, budget in zip(self.owners, self.budgets, strict=True)
                ],
                "recipients": list(self.recipients),
                "release_records": self.release_records,
                "release_nonfinite": self.release_nonfinite,
                "policy": self.policy,
                "expires_s": self.expires_s,
                "anchors": list(self.anchors),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Contract:
        """Read a contract and check every rule of its form.

        Raises ``oversized_message``, ``unknown_field`` or ``contract_malformed``.
        """
        value = decode(data, most_bytes=MOST_CONTRACT_BYTES, refusal="contract_malformed", what="contract")
        if isinstance(value, dict) and dict[Any, Value](value).get("version") == 1:
            raise ProtocolError.named(
                "contract_malformed",
                "contract, version: expected 2, got 1, which names no anchors: draw it up and sign it anew, "
                "for an image built with this version",
            )
        fields = _SHAPE.map(value, "contract", _KEYS)
        _SHAPE.uint(fields["version"], "contract, version", least=2, most=2)
        budgets = _read_budgets(fields["budgets"])
        contract = cls(
            name=_SHAPE.text(fields["name"], "contract, name"),
            measurement=_digest(fields["measurement"], "measurement"),
            plan=_digest(fields["plan"], "plan"),
            parties=_read_parties(fields["parties"]),
            datasets=_read_datasets(fields["datasets"]),
            event=DpEvent.from_map(fields["event"]),
            budgets=tuple(budget for _, budget in budgets),
            recipients=tuple(
                _SHAPE.uint(r, "contract, recipients", most=_MOST_PARTIES - 1)
                for r in _SHAPE.array(fields["recipients"], "contract, recipients", most=_MOST_PARTIES)
            ),
            release_records=_SHAPE.boolean(fields["release_records"], "contract, release_records"),
            release_nonfinite=_SHAPE.boolean(fields["release_nonfinite"], "contract, release_nonfinite"),
            policy=_digest(fields["policy"], "policy"),
            expires_s=_SHAPE.uint(fields["expires_s"], "contract, expires_s"),
            anchors=_read_anchors(fields["anchors"]),
        )
        _check(contract, [owner for owner, _ in budgets])
        return contract

    @property
    def digest(self) -> bytes:
        """Contract digest (32 bytes)."""
        return digest(self.to_bytes())


_KEYS = (
    "version",
    "name",
    "measurement",
    "plan",
    "parties",
    "datasets",
    "event",
    "budgets",
    "recipients",
    "release_records",
    "release_nonfinite",
    "policy",
    "expires_s",
    "anchors",
)


def _digest(value: object, what: str) -> bytes:
    return _SHAPE.bytes(value, f"contract, {what}", size=DIGEST_BYTES)


def _read_anchors(value: object) -> tuple[str, ...]:
    items = _SHAPE.array(value, "contract, anchors", most=len(ANCHORS))
    if items != [name for name in ANCHORS if name in items]:
        raise _SHAPE.refuse(
            "contract, anchors", f"some of {', '.join(ANCHORS)}, in this order", repr(items)[:80]
        )
    return tuple(str(name) for name in items)


def _read_parties(value: object) -> tuple[Party, ...]:
    items = _SHAPE.array(value, "contract, parties", most=_MOST_PARTIES)
    if len(items) < 2:
        raise _SHAPE.refuse("contract, parties", "2 to 32", str(len(items)))
    parties = []
    for index, item in enumerate(items):
        what = f"contract, party {index}"
        fields = _SHAPE.map(item, what, ("name", "role", "signing_key", "sealing_key"))
        role = _SHAPE.text(fields["role"], f"{what}, role", most=16)
        if role not in ("owner", "researcher"):
            raise _SHAPE.refuse(f"{what}, role", "owner or researcher", repr(role))
        party = Party(
            _SHAPE.text(fields["name"], f"{what}, name"),
            role,
            _SHAPE.bytes(fields["signing_key"], f"{what}, signing_key", size=SIGNING_KEY_BYTES),
            _SHAPE.bytes(fields["sealing_key"], f"{what}, sealing_key", size=SEALING_KEY_BYTES),
        )
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), party.signing_key)
        except ValueError:
            raise _SHAPE.refuse(f"{what}, signing_key", "a P-256 point", "none") from None
        sealing_key(party.sealing_key, refusal="contract_malformed", what=f"{what}, sealing_key")
        parties.append(party)
    return tuple(parties)


def _read_datasets(value: object) -> tuple[Dataset, ...]:
    datasets = []
    for index, item in enumerate(_SHAPE.array(value, "contract, datasets", most=_MOST_PARTIES)):
        what = f"contract, dataset {index}"
        fields = _SHAPE.map(item, what, ("owner", "digest", "schema", "records"))
        datasets.append(
            Dataset(
                _SHAPE.uint(fields["owner"], f"{what}, owner", most=_MOST_PARTIES - 1),
                _SHAPE.bytes(fields["digest"], f"{what}, digest", size=DIGEST_BYTES),
                _SHAPE.bytes(fields["schema"], f"{what}, schema", size=DIGEST_BYTES),
                _SHAPE.uint(fields["records"], f"{what}, records", least=1, most=_MOST_RECORDS),
            )
        )
    return tuple(datasets)


def _read_budgets(value: object) -> list[tuple[int, Budget]]:
    budgets = []
    for index, item in enumerate(_SHAPE.array(value, "contract, budgets", most=_MOST_PARTIES)):
        what = f"contract, budget {index}"
        fields = _SHAPE.map(item, what, ("owner", "epsilon_e6", "delta_e15"))
        budget = Budget(
            _SHAPE.uint(fields["epsilon_e6"], f"{what}, epsilon_e6"),
            _SHAPE.uint(fields["delta_e15"], f"{what}, delta_e15", most=10**15),
        )
        budgets.append((_SHAPE.uint(fields["owner"], f"{what}, owner", most=_MOST_PARTIES - 1), budget))
    return budgets


def _check(contract: Contract, budget_owners: list[int]) -> None:
    """Check the rules between fields."""
    parties, owners = contract.parties, list(contract.owners)
    researchers = len(parties) - len(owners)
    rules = (
        (
            "witnesses" not in contract.anchors or len(owners) > 1,
            "anchors",
            "witnesses only where there are two owners or more",
            "one owner",
        ),
        (len({p.name for p in parties}) == len(parties), "parties", "distinct names", "a name twice"),
        (len({p.signing_key for p in parties}) == len(parties), "parties", "distinct keys", "a key twice"),
        (researchers == 1, "parties", "exactly one researcher", str(researchers)),
        (
            [d.owner for d in contract.datasets] == owners,
            "datasets",
            "one per owner, in order of party id",
            str([d.owner for d in contract.datasets]),
        ),
        (budget_owners == owners, "budgets", "one per owner, in order of party id", str(budget_owners)),
        (
            sum(d.records for d in contract.datasets) == contract.event.dataset_size,
            "event, dataset_size",
            f"the sum of records, {sum(d.records for d in contract.datasets)}",
            str(contract.event.dataset_size),
        ),
        (
            bool(contract.recipients)
            and list(contract.recipients) == sorted(set(contract.recipients))
            and contract.recipients[-1] < len(parties),
            "recipients",
            "party ids, ascending, at least one",
            str(list(contract.recipients)),
        ),
    )
    for good, what, expected, got in rules:
        if not good:
            raise _SHAPE.refuse(f"contract, {what}", expected, got)


@dataclass(frozen=True)
class SignedContract:
    """A contract's bytes with the signatures that are there so far: by party id, ``None`` where missing.

    Immutable: :meth:`sign` gives a new one.
    """

    contract_bytes: bytes
    signatures: tuple[bytes | None, ...]
    contract: Contract

    @classmethod
    def unsigned(cls, contract: Contract) -> SignedContract:
        """A contract that nobody has signed yet; raises ``contract_malformed`` if it breaks a rule."""
        data = contract.to_bytes()
        return cls(data, (None,) * len(contract.parties), Contract.from_bytes(data))

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedContract:
        """Read the file's form. The signatures are **not** checked; :meth:`verify` does that."""
        value = decode(
            data, most_bytes=_MOST_SIGNED_BYTES, refusal="contract_malformed", what="signed contract"
        )
        array = _SHAPE.array(value, "signed contract", size=3)
        if array[0] != "myelin-contract":
            raise _SHAPE.refuse("signed contract", "a Myelin contract", "another document")
        contract_bytes = _SHAPE.bytes(array[1], "signed contract, contract", most=MOST_CONTRACT_BYTES)
        contract = Contract.from_bytes(contract_bytes)
        items = _SHAPE.array(array[2], "signed contract, signatures", size=len(contract.parties))
        signatures = tuple(
            None if item is None else _SHAPE.bytes(item, "signed contract, signature", most=256)
            for item in items
        )
        return cls(contract_bytes, signatures, contract)

    @classmethod
    def load(cls, path: str | Path) -> SignedContract:
        """Read a contract file; :class:`~myelin.errors.InputError` if it is none."""
        try:
            return cls.from_bytes(read_bounded(path, _MOST_SIGNED_BYTES))
        except ProtocolError as error:
            raise InputError(f"{path}: expected a Myelin contract: {error.detail}") from None

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return encode(["myelin-contract", self.contract_bytes, list(self.signatures)])

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_whole(path, self.to_bytes())

    @property
    def digest(self) -> bytes:
        """Contract digest (32 bytes): what everybody signs."""
        return digest(self.contract_bytes)

    def party_of(self, signing_key: bytes, sealing_key: bytes) -> int:
        """Party id that has exactly these keys; raises ``not_a_party``."""
        for index, party in enumerate(self.contract.parties):
            if (party.signing_key, party.sealing_key) == (signing_key, sealing_key):
                return index
        raise ProtocolError.named("not_a_party", "no party of this contract has these keys")

    def sign(self, identity: Identity) -> SignedContract:
        """Add this party's signature; signing twice changes nothing. Raises ``not_a_party``."""
        public = identity.public
        index = self.party_of(public.signing_key, public.sealing_key)
        signature = sign1(self.contract_bytes, CONTRACT_TYPE, identity.signing, detached=True)
        signatures = list(self.signatures)
        signatures[index] = signature
        return SignedContract(self.contract_bytes, tuple(signatures), self.contract)

    def verify_signature(self, index: int) -> None:
        """Check one party's signature; raises ``signature_missing`` or ``signature_invalid``."""
        party, signature = self.contract.parties[index], self.signatures[index]
        if signature is None:
            raise ProtocolError.named("signature_missing", f"{party.name!r} (party {index}) has not signed")
        verify1(
            signature,
            CONTRACT_TYPE,
            party.signing_key,
            payload=self.contract_bytes,
            most_bytes=256,
            malformed="signature_invalid",
            what=f"signature of {party.name!r} (party {index})",
        )

    def verify(self) -> None:
        """Check that every party has signed exactly these bytes; raises at the first that has not."""
        for index in range(len(self.contract.parties)):
            self.verify_signature(index)
