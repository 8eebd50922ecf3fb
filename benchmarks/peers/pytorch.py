"""PyTorch without privacy: eager, and compiled by ``torch.compile``. Images are channels-last."""

from __future__ import annotations

import torch
from torch import nn

from ..protocol import Prepared, Unavailable
from ..workloads import LEARNING_RATE, Workload
from .torch_models import build, dataset, parameter_count


def prepare(workload: Workload, mode: str, threads: int) -> Prepared:
    if mode not in {"plain", "plain_compiled"}:
        raise Unavailable(f"PyTorch has no mode {mode}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    records, classes = dataset(workload)
    model = build(workload)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    criterion = nn.CrossEntropyLoss()

    def loss_of(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return criterion(model(drawn), truth)

    loss = torch.compile(loss_of) if mode == "plain_compiled" else loss_of

    def step() -> None:
        index = torch.randint(workload.dataset_size, (workload.batch,))
        optimizer.zero_grad(set_to_none=True)
        loss(records[index], classes[index]).backward()
        optimizer.step()

    return Prepared(step, parameter_count(model), {"torch": torch.__version__})
