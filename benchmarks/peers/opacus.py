"""Opacus: per-example gradients by hooks, by ghost clipping (two backward passes), by expanded weights.

Batches are drawn as its own sampler draws them and gathered by index, without the Python loop over records of
its data loader. Its noise is PyTorch's normal generator, not a cryptographic one (``secure_mode`` is off).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import opacus
import torch
from opacus.layers import DPLSTM
from torch import nn

from ..protocol import Prepared, Unavailable
from ..workloads import CLIPPING_NORM, LEARNING_RATE, NOISE_MULTIPLIER, Workload
from .torch_models import build, dataset, parameter_count

MODES = {"private_hooks": "hooks", "private_ghost": "ghost", "private_ew": "ew"}


def engine_step(
    workload: Workload, grad_sample_mode: str, model: nn.Module, records: torch.Tensor, classes: torch.Tensor
) -> Callable[[], None]:
    """One step of the engine over a Poisson batch, in physical batches where gradients are kept whole."""
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(records, classes), batch_size=workload.batch
    )
    parts = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        criterion=nn.CrossEntropyLoss(),
        data_loader=loader,
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIPPING_NORM,
        grad_sample_mode=grad_sample_mode,
    )
    private, optimizer = parts[0], parts[1]
    criterion = parts[2] if grad_sample_mode == "ghost" else nn.CrossEntropyLoss()
    # Ghost clipping keeps no example's gradient, so it never needs a smaller batch.
    chunk_size = workload.batch if grad_sample_mode == "ghost" else workload.physical_batch
    chunked = chunk_size < workload.batch
    if chunked:
        private.allow_grad_accumulation()

    def step() -> None:
        index = (torch.rand(workload.dataset_size) < workload.sampling_rate).nonzero()[:, 0]
        chunks = index.split(chunk_size) if chunked else (index,)
        for number, chunk in enumerate(chunks):
            optimizer.signal_skip_step(do_skip=number + 1 < len(chunks))
            criterion(private(records[chunk]), classes[chunk]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    if mode not in MODES:
        raise Unavailable(f"Opacus has no mode {mode}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    records, classes = dataset(workload)
    model = build(workload, DPLSTM)
    parameters = parameter_count(model)
    step = engine_step(workload, MODES[mode], model, records, classes)
    return Prepared(step, parameters, {"torch": torch.__version__, "opacus": opacus.__version__})
