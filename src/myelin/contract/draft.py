"""``contract.toml``: a contract as people write it, and the steps from it to the bytes that are signed."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from myelin.attest import Policy
from myelin.contract.agreement import Budget, Contract, Dataset, Party, SignedContract
from myelin.contract.dataset import sealed_dataset
from myelin.contract.event import DpEvent
from myelin.contract.files import read_bounded
from myelin.contract.image_facts import ImageFacts, read_image_facts
from myelin.contract.keys import PublicIdentity
from myelin.errors import InputError, ProtocolError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Draft", "draft_contract"]

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_PolicyFile = Annotated[str, Field(max_length=1024, pattern=r"\.toml$")]
_MOST_DRAFT_BYTES = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DraftBudget(_Strict):
    """``{ epsilon = 3.0, delta = 1e-5 }``."""

    epsilon: float
    delta: float


class DraftDataset(_Strict):
    """A dataset's public facts, where its sealed file is not at hand."""

    digest: _Digest
    schema_digest: _Digest
    records: Annotated[int, Field(ge=1)]


class DraftParty(_Strict):
    """One ``[[parties]]`` table. Owners have ``dataset`` (a sealed file, or its facts) and ``budget``."""

    name: _Name
    role: Literal["owner", "researcher"]
    public_key: _Name
    dataset: _Name | DraftDataset | None = None
    budget: DraftBudget | None = None

    @model_validator(mode="after")
    def _complete(self) -> DraftParty:
        if self.role == "owner" and (self.dataset is None or self.budget is None):
            raise ValueError(f"{self.name!r} is an owner: give dataset and budget")
        if self.role == "researcher" and (self.dataset is not None or self.budget is not None):
            raise ValueError(f"{self.name!r} is the researcher: no dataset and no budget")
        return self


class Draft(_Strict):
    """``contract.toml``. Paths are relative to it.

    ``image`` is the image file; ``measurement``, ``plan`` and ``event`` may be given instead, or as well to
    be compared. ``policy`` is ``production``, ``insecure-simulated``, a policy file (``….toml``), or a
    policy's digest in hex.
    ``expires`` is a date with a time zone. ``release_nonfinite`` gives out an exact count that ε does not
    cover; leave it false unless every owner wants it. ``anchors`` is what keeps an older copy of a broker's
    ledger from being worth anything: any of ``log``, ``tpm``, ``witnesses`` (``docs/broker.md``).
    """

    version: Literal[1] = 1
    name: _Name
    image: _Name | None = None
    measurement: _Digest | None = None
    plan: _Digest | None = None
    event: dict[str, Any] | None = None
    policy: Literal["production", "insecure-simulated"] | _Digest | _PolicyFile
    expires: datetime
    recipients: Annotated[tuple[_Name, ...], Field(min_length=1)]
    release_records: bool = False
    release_nonfinite: bool = False
    anchors: tuple[Literal["log", "tpm", "witnesses"], ...] = ()
    parties: Annotated[tuple[DraftParty, ...], Field(min_length=2, max_length=32)]

    @classmethod
    def load(cls, path: str | Path) -> Draft:
        """Read ``contract.toml``; :class:`~myelin.errors.InputError` names the field that is wrong."""
        try:
            return cls.model_validate(tomllib.loads(read_bounded(path, _MOST_DRAFT_BYTES).decode("utf-8")))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: expected TOML, got: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "contract"
            raise InputError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from None

    def policy_digest(self, folder: str | Path) -> bytes:
        """Digest of the appraisal policy, whose file is read in ``folder``."""
        if self.policy == "production":
            return Policy.production().digest
        if self.policy == "insecure-simulated":
            return Policy.insecure_accepting_simulated_evidence().digest
        if self.policy.endswith(".toml"):
            return Policy.load(Path(folder) / self.policy).digest
        return bytes.fromhex(self.policy)


def draft_contract(draft: Draft, folder: str | Path, *, now_s: int) -> SignedContract:
    """Make the unsigned contract of a draft; its image, public keys and sealed files are read in ``folder``.

    Raises :class:`~myelin.errors.InputError` for what is missing or does not fit together. Budgets are not
    compared here: :func:`~myelin.contract.check_budgets` does that.
    """
    folder = Path(folder)
    facts = read_image_facts(folder / draft.image) if draft.image else None
    parties = tuple(_party(party, folder) for party in draft.parties)
    datasets = tuple(
        _dataset(index, party, folder) for index, party in enumerate(draft.parties) if party.role == "owner"
    )
    _check_datasets(datasets, parties, facts)
    records = sum(dataset.records for dataset in datasets)
    names = [party.name for party in parties]
    for recipient in draft.recipients:
        if recipient not in names:
            raise InputError(f"recipients: expected names of parties ({', '.join(names)}), got {recipient!r}")
    contract = Contract(
        name=draft.name,
        measurement=_agreed("measurement", draft.measurement, facts.measurement if facts else None),
        plan=_agreed("plan", draft.plan, facts.plan if facts else None),
        parties=parties,
        datasets=datasets,
        event=_event(draft, facts, records),
        budgets=tuple(Budget.of(p.budget.epsilon, p.budget.delta) for p in draft.parties if p.budget),
        recipients=tuple(sorted(names.index(recipient) for recipient in draft.recipients)),
        release_records=draft.release_records,
        release_nonfinite=draft.release_nonfinite,
        policy=draft.policy_digest(folder),
        expires_s=_expiry(draft.expires, now_s),
        anchors=tuple(sorted(set(draft.anchors))),
    )
    try:
        return SignedContract.unsigned(contract)
    except ProtocolError as error:
        raise InputError(error.detail) from None


def _party(party: DraftParty, folder: Path) -> Party:
    public = PublicIdentity.load(folder / party.public_key)
    return Party(party.name, party.role, public.signing_key, public.sealing_key)


def _dataset(index: int, party: DraftParty, folder: Path) -> Dataset:
    given = party.dataset
    if isinstance(given, DraftDataset):
        return Dataset(index, bytes.fromhex(given.digest), bytes.fromhex(given.schema_digest), given.records)
    sealed = sealed_dataset(folder / str(given))
    return Dataset(index, sealed.digest, sealed.header.schema, sealed.header.records)


def _check_datasets(
    datasets: tuple[Dataset, ...], parties: tuple[Party, ...], facts: ImageFacts | None
) -> None:
    for dataset in datasets[1:]:
        if dataset.schema != datasets[0].schema:
            raise InputError(
                f"datasets: {parties[dataset.owner].name!r} sealed with another schema than "
                f"{parties[datasets[0].owner].name!r}; all owners must use the same schema.toml"
            )
    if facts is not None and datasets and datasets[0].schema != facts.schema:
        raise InputError(
            f"datasets: sealed with schema {datasets[0].schema.hex()[:16]}…, the image was built for "
            f"{facts.schema.hex()[:16]}…; seal with the schema.toml that the image was built with"
        )
    records = sum(dataset.records for dataset in datasets)
    if facts is not None and records > facts.max_records:
        raise InputError(
            f"datasets: expected at most {facts.max_records} records for this image, got {records}"
        )


def _agreed(what: str, given: str | None, read: bytes | None) -> bytes:
    if given is None and read is None:
        raise InputError(f"{what}: give image, or {what} in hex")
    if given is not None and read is not None and bytes.fromhex(given) != read:
        raise InputError(f"{what}: contract.toml says {given}, the image file has {read.hex()}")
    return bytes.fromhex(given) if given is not None else read or b""


def _event(draft: Draft, facts: ImageFacts | None, records: int) -> DpEvent:
    read = facts.event(records) if facts else None
    if draft.event is None:
        if read is None:
            raise InputError("event: give image, or the event")
        return read
    try:
        given = DpEvent.from_map({**draft.event, "dataset_size": draft.event.get("dataset_size", records)})
    except ProtocolError as error:
        raise InputError(error.detail) from None
    if read is not None and given != read:
        raise InputError(f"event: contract.toml says {given.describe()}; the image does {read.describe()}")
    return given


def _expiry(expires: datetime, now_s: int) -> int:
    if expires.tzinfo is None:
        raise InputError(f"expires: expected a time zone, as in {expires.isoformat()}Z, got none")
    expires_s = int(expires.astimezone(timezone.utc).timestamp())
    if expires_s <= now_s:
        raise InputError(f"expires: expected a time in the future, got {expires.isoformat()}")
    return expires_s
