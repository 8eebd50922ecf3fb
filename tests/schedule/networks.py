"""Private graphs of small networks, and the float64 oracle beside their compiled steps."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np

from myelin.graph import differentiate
from myelin.model import SGD, Adam, Job, nn
from myelin.privacy import DpPlan, make_private
from myelin.privacy.oracle import clipped_sums
from myelin.schedule import NativeProgram, schedule
from myelin.zoo import MnistCnn
from targets import WIDEST


class Mlp(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(30, 16)
        self.output = nn.Linear(16, 2)

    def forward(self, x):
        return self.output(nn.tanh(self.hidden(x)))


class OddCnn(nn.Module):
    """Odd channels and extents, unequal strides, a convolution without bias, pooling that overlaps."""

    def __init__(self):
        self.conv1 = nn.Conv2D(3, 5, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2D(5, 19, 2, bias=False)
        self.conv3 = nn.Conv2D(19, 4, 2)
        self.output = nn.Linear(16, 3)

    def forward(self, x):
        x = nn.max_pool2d(nn.tanh(self.conv1(x)), 2, stride=1)
        x = nn.tanh(self.conv2(x))
        return self.output(nn.flatten(nn.relu(self.conv3(x))))


class Grouped(nn.Module):
    """What no hand-written kernel takes: groups, padded and average pooling."""

    def __init__(self):
        self.first = nn.Conv2D(2, 4, 3, stride=2, padding=1, groups=2)
        self.second = nn.Conv2D(4, 3, 2, bias=False)
        self.output = nn.Linear(18, 3)

    def forward(self, x):
        x = nn.avg_pool2d(nn.tanh(self.first(x)), 2, 1, padding=1)
        return self.output(nn.flatten(nn.max_pool2d(nn.relu(self.second(x)), 2, 1)))


class Tokens(nn.Module):
    """A linear layer on each of five positions, whose per-example gradients are kept."""

    def __init__(self):
        self.token = nn.Linear(3, 3)
        self.output = nn.Linear(15, 2)

    def forward(self, x):
        return self.output(nn.flatten(nn.tanh(self.token(x)) * 0.5 + x))


NETWORKS = {
    "mlp": (Mlp, (30,), 2),
    "cnn": (MnistCnn, (1, 28, 28), 10),
    "odd cnn": (OddCnn, (3, 9, 10), 3),
    "grouped": (Grouped, (2, 7, 6), 3),
    "tokens": (Tokens, (5, 3), 2),
}


def job(name, microbatch, clipping_norm=1.0, optimizer=None):
    network, shape, classes = NETWORKS[name]
    plan = DpPlan(1000, microbatch, 2 * microbatch, microbatch, 10, 1.0, clipping_norm, 1e-5)
    names = tuple(map(str, range(classes)))
    schema = SimpleNamespace(shape=shape, label=SimpleNamespace(classes=names))
    return Job("test", network, "cross_entropy", optimizer or SGD(0.1, 0.9), plan, schema, seed=1)


class Case:
    """One network, compiled."""

    def __init__(self, name, microbatch, target, clipping_norm=1.0, optimizer=None):
        self.job = job(name, microbatch, clipping_norm, optimizer)
        self.graph = differentiate(self.job)
        self.private = make_private(self.graph, self.job.plan)
        self.scheduled = schedule(self.private, target)
        self.native = NativeProgram(self.scheduled)

    def batch(self, seed=0):
        rng = np.random.default_rng(seed)
        microbatch, shape = self.private.microbatch, self.job.schema.shape
        x = rng.uniform(-1, 1, (microbatch, *shape)).astype(np.float32)
        labels = rng.integers(0, len(self.job.schema.label.classes), microbatch).astype(np.int32)
        mask = np.ones(microbatch, np.float32)
        return x, labels, mask

    def oracle(self, x, labels, mask):
        values = [v.astype(np.float64) for v in self.private.parameter_values]
        return clipped_sums(
            self.graph.module["forward"], values, x, labels, mask, self.job.plan.clipping_norm
        )


@cache
def case(name, microbatch=5, target=WIDEST, clipping_norm=1.0, adam=False):
    return Case(name, microbatch, target, clipping_norm, Adam(0.01) if adam else None)
