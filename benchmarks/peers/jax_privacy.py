"""JAX-Privacy: ``clipped_grad`` (a vectorised gradient of each example), its privatizer, the update, jitted.

Batches are its truncated Poisson sampling, drawn on the host and padded to the batch size, so that the step
compiles once. Its noise is JAX's default generator, not a cryptographic one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax_privacy
import numpy as np
from jax_privacy import batch_selection, noise_addition

from ..protocol import Prepared, Unavailable
from ..workloads import CLIPPING_NORM, LEARNING_RATE, NOISE_MULTIPLIER, Workload
from .jax_models import build, cross_entropy, dataset, parameter_count


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    if mode != "private":
        raise Unavailable(f"JAX-Privacy has no mode {mode}")
    records, classes = dataset(workload)
    parameters, forward = build(workload)
    count = parameter_count(parameters)
    chunked = workload.physical_batch < workload.batch
    gradient_of = jax_privacy.clipped_grad(
        lambda p, x, y: cross_entropy(forward, p, x, y),
        l2_clip_norm=CLIPPING_NORM,
        normalize_by=workload.batch,
        batch_argnums=(1, 2),
        microbatch_size=workload.physical_batch if chunked else None,
    )
    privatizer = noise_addition.gaussian_privatizer(
        stddev=NOISE_MULTIPLIER * CLIPPING_NORM / workload.batch, prng_key=0
    )

    @jax.jit(donate_argnums=(0, 1))
    def train(parameters, noise_state, index, records, classes):
        kept = jnp.maximum(index, 0)
        gradient = gradient_of(parameters, records[kept], classes[kept], is_padding_example=index < 0)
        noisy, noise_state = privatizer.update(gradient, noise_state)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, noisy), noise_state

    batches = batch_selection.CyclicPoissonSampling(
        workload.sampling_rate, 10**9, truncated_batch_size=workload.batch
    ).batch_iterator(workload.dataset_size, rng=0)
    state = parameters, privatizer.init(parameters)

    def step() -> None:
        nonlocal state
        drawn = next(batches)
        index = np.full(workload.batch, -1, np.int32)
        index[: len(drawn)] = drawn
        state = jax.block_until_ready(train(*state, index, records, classes))

    return Prepared(step, count, {"jax": jax.__version__, "jax-privacy": jax_privacy.__version__})
