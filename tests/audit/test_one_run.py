"""What one run betrays of a thousand canaries: less than is claimed, and more where noise is missing.

Record i is canary i: one feature of its own, so that its gradient, clipped, is a direction of its own. Coins
decide which canaries are in. In the place of one that is not in stands a record of zeros, which adds nothing
to a model without biases: the neighbour of the event, *replace-special*. The score of a canary is how far the
released model moved along its direction; no statistic of these releases tells more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from compiled import Compiled, compile_job, tensors_of
from jobs import CANARIES, CANARIES_SCHEMA
from reference import replay, run_keys

from myelin.certificate import CertificateBundle, open_model
from myelin.contract import Budget, DataSchema
from myelin.privacy import audit_one_run, epsilon
from world import Host, World, make_world

COUNT, OWNED, DELTA = 1000, 500, 1e-5
INCLUDED = np.random.default_rng(2305_08846).random(COUNT) < 0.5
VALUE = 8

Model = list[npt.NDArray[np.float32]]


def canaries(owner: int, schema: DataSchema) -> np.ndarray:
    """The owner's half of the canaries, zeros for those that are not in."""
    records = np.zeros(OWNED, schema.record_dtype)
    mine = np.arange(OWNED)
    features = np.zeros((OWNED, COUNT), np.uint8)
    features[mine, owner * OWNED + mine] = VALUE * INCLUDED[owner * OWNED : (owner + 1) * OWNED]
    records["features"] = features
    return records


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiled, World, Model, float]:
    """The canaries' image, a run of it through loader, brokers and enclave, and the ε it certifies."""
    compiled = compile_job(tmp_path_factory.mktemp("canaries"), CANARIES, CANARIES_SCHEMA)
    built = compiled.image
    world = make_world(
        Path(tmp_path_factory.mktemp("world")),
        built.path,
        built.manifest,
        built.measurement,
        built.plan_digest,
        compiled.job.schema,
        canaries,
        Budget.of("10", "0.00001"),
    )
    with Host(world, threads=2) as host:
        bundle, sealed = host.run()
    model = tensors_of(open_model(sealed, world.researcher), compiled.private.parameter_values)
    claim = epsilon(CertificateBundle.from_bytes(bundle).certificate.event.to_map(), DELTA)
    return compiled, world, model, claim


def bound_of(compiled: Compiled, model: Model) -> float:
    (start,), (end,) = compiled.private.parameter_values, model
    moved = end.astype(np.float64) - start
    return audit_one_run(moved[0] - moved[1], INCLUDED, DELTA)


def test_the_real_run_betrays_less_than_is_claimed(ran: tuple[Compiled, World, Model, float]) -> None:
    compiled, _, model, claim = ran
    bound = bound_of(compiled, model)
    print(f"one-run audit: at least {bound:.2f} of the claimed {claim:.2f}")
    # With this noise the bound is 1.19 ± 0.22, and never was below 0.77 in 150 simulated runs.
    assert 0.2 < bound < claim


def test_a_sixteenth_of_the_noise_is_found_out(ran: tuple[Compiled, World, Model, float]) -> None:
    """The same run computed again outside of the enclave, to the bit; then with less noise."""
    compiled, world, model, claim = ran
    keys = run_keys(world)
    again = replay(compiled, world, keys).model
    assert all(np.array_equal(a, b) for a, b in zip(again, model, strict=True))
    quiet = replay(compiled, world, keys, quieter=16).model
    bound = bound_of(compiled, quiet)
    print(f"a sixteenth of the noise: at least {bound:.2f}, claimed {claim:.2f}")
    assert bound > claim
