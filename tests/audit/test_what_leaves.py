"""Everything that leaves an enclave, and why each piece may.

To the host, as answers (docs/protocol.md, section 6):

- *public*, a function of the image and the contract: the plan's digest, names of states, counts of grants,
  receipts and chunks that are still missing, steps done and in all, lengths of outputs;
- *random*, fresh of this boot: its two public keys, the sealed shares and their signatures, the run;
- *argued* in THREAT_MODEL.md, "What the host still learns": when each answer comes; that a record does not
  fit the schema, and where it is, before anything was trained on it; that a run failed.

In the certificate, which anyone may read: :data:`FIELDS` says of each what it is. To the recipients alone,
sealed: the model, which is post-processing of *noised* sums; tests of neighbouring datasets hold those.

What depends on records in any other way must not be there. So a run on a dataset and one on a neighbour are
compared field by field, and the one exact count that a contract may ask for is shown to be the only one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest
from compiled import Compiled

from myelin.certificate import CertificateBundle, open_model
from myelin.certificate.claims import Certificate
from myelin.contract import DataSchema
from myelin.host import EnclaveSession
from myelin.wire import decode
from world import Host, World, make_world, records_of

ROOT = Path(__file__).parents[2]

FIELDS = {
    "measurement": "public: the image",
    "contract": "public: what all signed",
    "plan": "public: in the image",
    "run": "random: the boot's",
    "hpke_key": "random: the boot's",
    "signing_key": "random: the boot's",
    "event": "public: the plan's numbers, and the number of records that the contract says",
    "model": "noised: a digest of what the recipients get",
    "sealed_models": "noised: digests of the model as sealed, with fresh randomness",
    "records": "public: the contract's numbers again, and only if it says so",
    "nonfinite": "exact: only if the contract says so; THREAT_MODEL.md, what ε does not cover",
}
PUBLIC_ANSWERS = {
    0: "launch",
    4: "grant",
    6: "deposited",
    7: "data_begin",
    8: "data_chunk",
    9: "train",
    10: "release",
}
"""Messages whose answers are functions of image and contract alone."""


def neighbour(owner: int, schema: DataSchema) -> np.ndarray:
    """The first owner's first record is another one."""
    records = records_of(owner, schema)
    if owner == 0:
        records["features"][0] = -records["features"][0]
        records["label"][0] = (records["label"][0] + 1) % 3
    return records


@dataclass
class Listener:
    """An enclave, and all that it said: the message's code, and the answer."""

    enclave: object
    heard: list[tuple[int, bytes]] = field(default_factory=list)

    def call(self, message: bytes, timeout_s: float | None = None) -> bytes:
        answer = self.enclave.call(message, timeout_s)  # type: ignore[attr-defined]
        self.heard.append((int(decode(message)[0]), answer))  # type: ignore[index]
        return answer


@dataclass(frozen=True)
class Ran:
    """A run's certificate, model, and everything that the host heard."""

    certificate: Certificate
    model: bytes
    heard: list[tuple[int, bytes]]


def ran(world: World) -> Ran:
    with Host(world) as host:
        listener = Listener(host.enclave)
        host.session = EnclaveSession(listener)
        bundle, sealed = host.run()
    certificate = CertificateBundle.from_bytes(bundle).certificate
    return Ran(certificate, open_model(sealed, world.researcher), listener.heard)


@pytest.fixture(scope="module")
def both(
    subnormal: Compiled, settle: Callable[[Compiled], World], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ran, Ran]:
    """A run on a dataset, and one on its neighbour."""
    built, folder = subnormal.image, Path(tmp_path_factory.mktemp("neighbour"))
    facts = (built.manifest, built.measurement, built.plan_digest)
    other = make_world(folder, built.path, *facts, records_of=neighbour)
    return ran(settle(subnormal)), ran(other)


def test_the_certificate_has_these_fields_and_no_others() -> None:
    assert {f.name for f in fields(Certificate)} == FIELDS.keys()


@pytest.mark.parametrize("name", [name for name, what in FIELDS.items() if what.startswith("public")])
def test_what_is_public_is_the_same_for_a_neighbour(both: tuple[Ran, Ran], name: str) -> None:
    one, other = (getattr(run.certificate, name) for run in both)
    if name == "contract":  # it names the sealed files, whose keys are random
        assert len(one) == len(other) == 32
    else:
        assert one == other


def test_nothing_exact_is_told_unasked(both: tuple[Ran, Ran]) -> None:
    assert [run.certificate.nonfinite for run in both] == [None, None]
    text = " ".join((ROOT / "THREAT_MODEL.md").read_text("utf-8").split())
    assert "What ε does not cover because a contract says so: `release_nonfinite`" in text
    assert "A record that does not fit the schema" in text


def test_what_is_noised_and_random_is_not_the_same(both: tuple[Ran, Ran]) -> None:
    """The noise is another, as the job key is: equal models would mean that it is not there."""
    one, other = both
    assert one.model != other.model
    assert len(one.model) == len(other.model)
    for name in ("run", "hpke_key", "signing_key", "model", "sealed_models"):
        assert getattr(one.certificate, name) != getattr(other.certificate, name)


def test_the_host_hears_the_same_of_both(both: tuple[Ran, Ran]) -> None:
    """As many messages, as long; and where an answer is public, the very same."""
    one, other = (run.heard for run in both)
    assert [(code, len(answer)) for code, answer in one] == [(code, len(answer)) for code, answer in other]
    public = [pair for pair in zip(one, other, strict=True) if pair[0][0] in PUBLIC_ANSWERS]
    assert len({code for (code, _), _ in public}) == len(PUBLIC_ANSWERS) - 1  # launch is the loader's
    assert all(a == b for a, b in public)
