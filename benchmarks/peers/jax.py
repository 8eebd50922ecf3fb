"""JAX without privacy: one jitted function for the whole step, sampling included."""

from __future__ import annotations

import jax

from ..protocol import Prepared, Unavailable
from ..workloads import LEARNING_RATE, Workload
from .jax_models import build, cross_entropy, dataset, parameter_count


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    if mode != "plain_compiled":
        raise Unavailable(f"JAX has no mode {mode}")
    records, classes = dataset(workload)
    parameters, forward = build(workload)
    count = parameter_count(parameters)

    @jax.jit(donate_argnums=0)
    def train(parameters, key, records, classes):
        key, draw = jax.random.split(key)
        index = jax.random.randint(draw, (workload.batch,), 0, workload.dataset_size)
        gradient = jax.grad(lambda p: cross_entropy(forward, p, records[index], classes[index]))(parameters)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradient), key

    state = parameters, jax.random.key(0)

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(train(*state, records, classes))

    return Prepared(step, count, {"jax": jax.__version__})
