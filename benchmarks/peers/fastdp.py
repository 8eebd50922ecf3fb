"""FastDP: book-keeping, one backward pass, ghost norm or kept gradient by its own rule (``MixOpt``).

It is in no package index: give the folder of a checkout in the environment variable ``FASTDP``. Its batches
are drawn by Poisson sampling here, since it brings no sampler. Its noise is PyTorch's normal generator.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import nn

from ..protocol import Prepared, Unavailable
from ..workloads import CLIPPING_NORM, LEARNING_RATE, NOISE_MULTIPLIER, Workload
from .torch_models import build, dataset, parameter_count

CHECKOUT = "FASTDP"


def engine() -> type:
    """The class of FastDP's engine, from the checkout."""
    folder = os.environ.get(CHECKOUT, "")
    if not folder:
        raise Unavailable(f"FastDP is in no package index; set {CHECKOUT} to a checkout to measure it")
    sys.path.insert(0, folder)
    try:
        from fastDP import PrivacyEngine
    except ImportError as error:
        raise Unavailable(f"FastDP does not import here: {error}") from error
    return PrivacyEngine


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    if mode != "private":
        raise Unavailable(f"FastDP has no mode {mode}")
    private = engine()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    records, classes = dataset(workload)
    model = build(workload)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    private(
        model,
        batch_size=workload.batch,
        sample_size=workload.dataset_size,
        num_steps=1,
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIPPING_NORM,
        clipping_fn="Abadi",
    ).attach(optimizer)
    criterion = nn.CrossEntropyLoss()
    covered = len(optimizer.privacy_engine.named_params)

    def step() -> None:
        index = (torch.rand(workload.dataset_size) < workload.sampling_rate).nonzero()[:, 0]
        criterion(model(records[index]), classes[index]).backward()
        optimizer.step()

    step()
    if len(optimizer.privacy_engine.named_params) != covered:
        raise Unavailable("FastDP leaves parameters of this model without a gradient")
    return Prepared(step, parameter_count(model), {"torch": torch.__version__, "fastdp": version()})


def version() -> str:
    import fastDP

    return str(fastDP.__version__)
