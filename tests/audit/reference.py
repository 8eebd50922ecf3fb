"""A run computed again outside of the enclave, from the records and the job key.

All owners' shares together are the job key, and the test holds all owners' keys. Sampler, noise, keys and the
mechanism around the kernels are written a second time here and in `myelin.privacy`; the kernels are the
image's own, and are held against a float64 oracle elsewhere (tests/schedule).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from compiled import Compiled, tensors_of
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from myelin.certificate import CertificateBundle, open_model, verify
from myelin.contract import NumericLabel
from myelin.contract.ledger import Ledger
from myelin.privacy import epsilon
from myelin.privacy.augment import draw_views
from myelin.privacy.banded import BandedRelease, batch_of
from myelin.privacy.dropout import draw_masks
from myelin.privacy.noise import CHUNK_COORDINATES, SIGMA_UNITS, fill, grid
from myelin.privacy.sampling import EMPTY, draw
from myelin.wire import digest, info
from world import Host, World

Drawn = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class RunKeys:
    """Keys of a run's sampler, noise, dropout and views."""

    sampling: bytes
    noise: bytes
    dropout: bytes
    augment: bytes


def run_keys(world: World) -> RunKeys:
    """The keys of the last run: all owners' shares joined, then the derivation of protocol section 8."""
    job_key = bytes(32)
    for owner in world.owners:
        share = Ledger(owner.store, lambda events, delta: 0.0).shares(world.signed.digest)[-1].share
        job_key = bytes(a ^ b for a, b in zip(job_key, share, strict=True))
    datasets = [dataset.digest for dataset in world.contract.datasets]
    fields = (world.measurement, world.signed.digest, datasets)
    transcript = digest(info("myelin/transcript/v1", *fields))

    def derived(label: bytes) -> bytes:
        return HKDF(SHA256(), 32, transcript, label).derive(job_key)

    names = ("sampling", "noise", "dropout", "augment")
    return RunKeys(**{name: derived(f"myelin/{name}/v1".encode()) for name in names})


@dataclass
class Replay:
    """What happened in each step: how many were drawn before truncation, and the noisy gradient."""

    drawn: list[int] = field(default_factory=list)
    noisy: list[npt.NDArray[np.float32]] = field(default_factory=list)
    model: list[npt.NDArray[np.float32]] = field(default_factory=list)


def replay(
    compiled: Compiled,
    world: World,
    keys: RunKeys,
    leave_out: Callable[[int, Drawn], Drawn] = lambda step, slots: slots,
    quieter: int = 1,
) -> Replay:
    """Compute the run of `world` again.

    `leave_out` may change who is in a step's slots; noise is divided by `quieter`.
    """
    plan, native, happened = compiled.plan, compiled.native(), Replay()
    records = np.concatenate([world.records(n, world.schema) for n in range(len(world.owners))])
    values = compiled.private.parameter_values
    cuts = np.cumsum([value.size for value in values])[:-1]
    unit = grid(plan.noise_multiplier_e9, compiled.private.sensitivity_e9)
    coefficients = plan.correlation.coefficients_e9 if plan.correlation else ()
    banded = BandedRelease(coefficients, unit, compiled.private.parameter_count)
    for step in range(1, plan.steps + 1):
        slots, _ = draw(keys.sampling, step, len(records), plan.sampling_threshold, plan.capacity)
        if coefficients:
            slots = batch_of(keys.sampling, step, len(records), plan.capacity)
        everyone, _ = draw(keys.sampling, step, len(records), plan.sampling_threshold, len(records))
        happened.drawn.append(int((everyone != EMPTY).sum()))
        lanes = np.zeros((compiled.lanes, compiled.private.parameter_count))
        kept = leave_out(step, slots)
        batches = zip(
            physical_batches(compiled, records, kept, world), padded_slots(compiled, kept), strict=True
        )
        for number, (batch, present) in enumerate(batches):
            features, labels, mask = batch
            masks = draw_masks(keys.dropout, step, present, native.dropout, plan.views)
            seen = draw_views(keys.augment, step, present, features, plan.augment, plan.views)
            parts, _, _ = native.run_step(seen, np.repeat(labels, plan.views), mask, masks=masks)
            lanes[number % compiled.lanes] += np.concatenate(
                [part.astype(np.float64).ravel() for part in parts]
            )
        noise = noise_of(compiled, keys.noise, step) // quieter
        total = functools.reduce(np.add, lanes)
        if coefficients:
            noisy = (banded.step(total, noise) * (unit / plan.expected_batch_size)).astype(np.float32)
        else:
            noisy = released(compiled, total, noise)
        happened.noisy.append(noisy)
        shaped = [g.reshape(v.shape) for g, v in zip(np.split(noisy, cuts), values, strict=True)]
        native.run_update(step, shaped)
        happened.model = native.released()
    return happened


def is_the_model(compiled: Compiled, model: bytes, computed: Replay) -> bool:
    """Whether a released model is the one computed, to the bit."""
    got = tensors_of(model, compiled.private.parameter_values)
    return all(
        np.array_equal(a.view(np.int32), np.ascontiguousarray(b).view(np.int32))
        for a, b in zip(got, computed.model, strict=True)
    )


def run_certified(compiled: Compiled, world: World) -> dict[str, Any]:
    """Run on two threads, hold the model against the run computed again, verify; the certificate's event."""
    with Host(world, threads=2) as host:
        bundle, sealed = host.run()[:2]
    assert is_the_model(
        compiled, open_model(sealed, world.researcher), replay(compiled, world, run_keys(world))
    )
    event = CertificateBundle.from_bytes(bundle).certificate.event.to_map()
    checked = verify(bundle, world.signed, allow_simulated=True, now_s=0)
    assert checked.verified, checked.to_dict()
    assert {figure.epsilon for figure in checked.privacy} == {epsilon(event, 1e-5)}
    return event


def padded_slots(compiled: Compiled, slots: Drawn) -> Drawn:
    """The slots of every physical batch."""
    size, count = compiled.plan.microbatch, compiled.plan.physical_batches
    padded = np.full(size * count, EMPTY, np.uint32)
    padded[: len(slots)] = slots
    return padded.reshape(count, size)


def physical_batches(
    compiled: Compiled, records: npt.NDArray[np.void], slots: Drawn, world: World
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float32]]]:
    """Features, labels and mask of every physical batch, empty slots zero."""
    scale, offset = (np.array(v, np.float32) for v in (world.schema.scale, world.schema.offset))
    label = world.schema.label
    for part in padded_slots(compiled, slots):
        real = part != EMPTY
        chosen = records[np.where(real, part, 0)]
        features = chosen["features"].astype(np.float32) * scale + offset
        features[~real] = 0
        features = features.reshape(-1, *world.schema.shape)
        labels = chosen["label"]
        if isinstance(label, NumericLabel):
            labels = labels * np.float32(label.scale) + np.float32(label.offset)
        yield features, np.where(real, labels, labels.dtype.type(0)), real.astype(np.float32)


def released(
    compiled: Compiled, sums: npt.NDArray[np.float64], noise: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The noisy gradient: onto the grid, noise, back, divided by the public batch size."""
    plan = compiled.plan
    unit = grid(plan.noise_multiplier_e9, compiled.private.sensitivity_e9)
    assert unit * SIGMA_UNITS >= plan.noise_multiplier * compiled.private.sensitivity_e9 / 1e9
    units = np.rint(sums * (1 / unit)) + noise
    return (units * (unit / plan.expected_batch_size)).astype(np.float32)


def noise_of(compiled: Compiled, key: bytes, step: int) -> npt.NDArray[np.int64]:
    """All parameters' noise: each starts with a stream of its own."""
    drawn, first = [], 0
    for value in compiled.private.parameter_values:
        drawn.append(fill(key, step, first, value.size))
        first += -(-value.size // CHUNK_COORDINATES) * CHUNK_COORDINATES
    return np.concatenate(drawn)
