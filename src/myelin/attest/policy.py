"""Appraisal policies: what evidence a relying party accepts (RFC 9334 section 8.5).

A policy is a small TOML file with typed fields, and unknown fields are refused. Accepting simulated
evidence is another *type* of policy, not a setting of one: no field, file or flag turns
:meth:`Policy.production` into something that takes a simulated enclave for a real one. Debugging is never
accepted: it has no field.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from myelin.attest.kind import HexBytes, Measurement, RealEvidence
from myelin.errors import InputError
from myelin.wire import digest, info

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AppraisalPolicy",
    "BuiltInMinima",
    "MinimumTcb",
    "Policy",
    "SimulatedPolicy",
    "built_in_minima",
    "load_measurements",
]

_Model = TypeVar("_Model", bound=BaseModel)
_DAY_S = 86_400
_MOST_POLICY_BYTES = 1 << 20

_Text = Annotated[str, Field(strict=True, min_length=1, max_length=64, pattern=r"^[ -~]+$")]
PlatformFeature = Literal["alias-check", "ciphertext-hiding", "ecc", "rapl-disabled", "tsme"]
"""What may be required of a platform's settings."""
_Version = Annotated[int, Field(strict=True, ge=1, le=1)]
_Count = Annotated[int, Field(strict=True, ge=0, le=(1 << 32) - 1)]


def _from_table(value: object) -> object:
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


class MinimumTcb(BaseModel):
    """The least versions of a platform's components, for one kind of evidence and one product line.

    ``components`` may be given as a mapping; a component that the evidence has and this does not name is
    refused, so that nothing is left to chance. ``mitigations`` are the bits that the platform's vector of
    mitigations must have (AMD's LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR), and ``features`` what must be
    switched on: ``alias-check``, ``ciphertext-hiding``, ``ecc``, ``rapl-disabled``, ``tsme``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RealEvidence
    product: Annotated[str, Field(strict=True, max_length=64, pattern="^[a-z0-9-]*$")] = ""
    components: Annotated[
        tuple[tuple[_Text, _Count], ...], BeforeValidator(_from_table), Field(min_length=1, max_length=16)
    ]
    mitigations: Annotated[int, Field(strict=True, ge=0, le=(1 << 63) - 1)] = 0
    features: frozenset[PlatformFeature] = frozenset()


class BuiltInMinima(BaseModel):
    """The minima of :meth:`Policy.production` (``amd_minimum.toml``), the day up to which they hold, and the
    products that no minimum is given for, each with the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: _Version
    as_of: Annotated[str, Field(strict=True, pattern=r"^\d{4}-\d{2}-\d{2}$")]
    minimum_tcb: tuple[MinimumTcb, ...]
    without_minimum: dict[str, str]


class Policy(BaseModel):
    """A policy for evidence that hardware signed. Every field that is left out has its strictest value.

    Args:
        version: of the policy language: 1.
        name: what reports call the policy.
        accepts: the kinds of evidence that are accepted.
        measurements: reference values for hardware registers; those of the relying party add to them.
        tcb_statuses: the vendor's judgements that are accepted; ``UpToDate`` alone by default.
        advisories: open security advisories that are accepted all the same, by the vendor's name for them.
        minimum_tcb: least component versions where the vendor gives versions instead of a judgement, as AMD
            does; a platform of a product that is not listed is refused, so by default every one is.
        platforms: the only machines that are accepted (PPID, chip id, digest of the attestation key), in
            hex; any machine of the vendor if it is left out.
        maximum_evidence_age_s: how old evidence that carries its time may be.
        maximum_collateral_age_s: how long ago the vendor may have issued its collateral.
        maximum_revocation_age_s: how long ago an issuer may have issued its revocation list or OCSP answer,
            which must be before its own next update besides.
        allow_unchecked_revocation: kinds for which no such list or answer need be given.
        allow_smt: whether the platform may run two threads on one core, which share its caches.
        allow_dynamic_platform: whether processors may be added to the (Intel) platform later.
        allow_cached_keys: whether Intel's registration service may keep the platform's keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: _Version = 1
    name: _Text = "unnamed"
    accepts: Annotated[frozenset[RealEvidence], Field(min_length=1)]
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=256)] = ()
    tcb_statuses: Annotated[frozenset[_Text], Field(max_length=16)] = frozenset({"UpToDate"})
    advisories: Annotated[frozenset[_Text], Field(max_length=256)] = frozenset()
    minimum_tcb: Annotated[tuple[MinimumTcb, ...], Field(max_length=64)] = ()
    platforms: Annotated[frozenset[HexBytes], Field(min_length=1, max_length=65_536)] | None = None
    maximum_evidence_age_s: Annotated[int, Field(strict=True, ge=1, le=366 * _DAY_S)] = 300
    maximum_collateral_age_s: Annotated[int, Field(strict=True, ge=1, le=366 * _DAY_S)] = 30 * _DAY_S
    maximum_revocation_age_s: Annotated[int, Field(strict=True, ge=1, le=366 * _DAY_S)] = 60 * _DAY_S
    allow_unchecked_revocation: Annotated[frozenset[RealEvidence], Field(max_length=16)] = frozenset()
    allow_smt: Annotated[bool, Field(strict=True)] = False
    allow_dynamic_platform: Annotated[bool, Field(strict=True)] = False
    allow_cached_keys: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _distinct(self) -> Policy:
        pairs = [(minimum.kind, minimum.product) for minimum in self.minimum_tcb]
        if len(set(pairs)) != len(pairs):
            raise ValueError("minimum_tcb names one product twice")
        return self

    @classmethod
    def production(cls) -> Policy:
        """The policy that may be used unread: every kind of hardware whose vendor vouches for it, up to
        date, without open advisories, without debugging, with collateral of the last 30 days.

        It names no build: which registers are right must come with the relying party's reference values.
        AMD signs versions and no judgement; the least ones here are those of AMD's bulletins up to a day
        that ``amd_minimum.toml`` names, and products without such values are refused. TPM quotes are not
        among its kinds, since nobody vouches for a TPM's key but a list of one's own machines. Revocation is
        checked for every kind but Nitro, whose chains live hours and whose vendor does not ask for it.
        Of the three properties that servers have from their makers (two threads a core, places for more
        processors, registered keys) it refuses none: what runs inside does not depend on them.
        """
        return cls(
            name="production",
            accepts=frozenset(RealEvidence) - {RealEvidence.TPM},
            minimum_tcb=built_in_minima().minimum_tcb,
            allow_unchecked_revocation=frozenset({RealEvidence.NITRO}),
            allow_smt=True,
            allow_dynamic_platform=True,
            allow_cached_keys=True,
        )

    @classmethod
    def from_toml(cls, text: str, *, where: str = "policy") -> Policy:
        """Read a policy; :class:`~myelin.errors.InputError` names the field that is wrong."""
        return _validated(cls, text, where)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file; :class:`~myelin.errors.InputError` names the file and the field."""
        return cls.from_toml(_read(path), where=str(path))

    @staticmethod
    def insecure_accepting_simulated_evidence() -> SimulatedPolicy:
        """A policy for rehearsals: accepts *only* simulated evidence, which proves nothing about
        secrecy."""
        return SimulatedPolicy()

    @property
    def digest(self) -> bytes:
        """Digest of every field, which contracts and report data carry (32 bytes). The order in which a
        file lists things does not count."""
        fields = {name: _canonical(getattr(self, name)) for name in type(self).model_fields}
        return digest(info("myelin/policy/v2", "real", fields))


@dataclass(frozen=True)
class SimulatedPolicy:
    """Accepts only simulated evidence. Made by :meth:`Policy.insecure_accepting_simulated_evidence`."""

    @property
    def name(self) -> str:
        """What reports call it."""
        return "INSECURE: simulated evidence"

    @property
    def digest(self) -> bytes:
        """Digest that contracts and report data carry (32 bytes)."""
        return digest(info("myelin/policy/v1", "insecure-simulated"))


class _References(BaseModel):
    """A file of reference values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: _Version = 1
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=256)]


@lru_cache(maxsize=1)
def built_in_minima() -> BuiltInMinima:
    """The minima that come with the package."""
    name = "amd_minimum.toml"
    return _validated(BuiltInMinima, resources.files("myelin.attest").joinpath(name).read_text("utf-8"), name)


def load_measurements(path: str | Path) -> tuple[Measurement, ...]:
    """Read reference values: TOML with ``version = 1`` and ``[[measurements]]`` as in a policy;
    :class:`~myelin.errors.InputError` names the file and the field."""
    return _validated(_References, _read(path), str(path)).measurements


def _read(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_POLICY_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MOST_POLICY_BYTES:
        raise InputError(f"{path}: expected at most {_MOST_POLICY_BYTES} bytes of TOML, got more")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected TOML in UTF-8, got: {error}") from None


def _validated(model: type[_Model], text: str, where: str) -> _Model:
    try:
        table = tomllib.loads(text)
        if "version" not in table:
            raise InputError(f"{where}: version: expected version = 1, got none")
        return model.model_validate(table)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: expected TOML, got: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "policy"
        raise InputError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    except RecursionError:
        raise InputError(f"{where}: expected TOML, got: nested too deeply") from None


AppraisalPolicy: TypeAlias = Policy | SimulatedPolicy
"""Either type of policy."""


def _canonical(value: object) -> object:
    """A field's value for the digest: sets and lists of tables in one order, tables by name."""
    if isinstance(value, BaseModel):
        return {name: _canonical(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, enum.Enum):
        return value.value
    if (
        isinstance(value, tuple) and value and isinstance(value[0], str)
    ):  # one row of a table: a name, a value
        return [_canonical(item) for item in value]
    if isinstance(value, frozenset | tuple):
        return sorted((_canonical(item) for item in value), key=lambda item: info("order", item))
    return value
