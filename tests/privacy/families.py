"""A small model, compiled as for the image, against the float64 oracle: what every family has to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from small_jobs import plan, small_job

from myelin.graph import TrainingGraph, differentiate
from myelin.image.check import check_kernels
from myelin.privacy import PrivateGraph, make_plain, make_private
from myelin.privacy.dropout import masks_from_seed
from myelin.privacy.oracle import ClippedSums, clipped_sums, example_gradient
from myelin.schedule import NativeProgram, schedule

TARGET, MICROBATCH = "x86-64-v3", 4


@dataclass(frozen=True)
class Family:
    """A model's private and plain steps; one row of the batch is padding, half of the others are clipped."""

    graph: TrainingGraph
    private: PrivateGraph
    program: NativeProgram
    plain: NativeProgram
    values: tuple[npt.NDArray[np.float32], ...]
    inputs: tuple[Any, Any, Any]
    clipping_norm: float
    oracle: ClippedSums
    masks: tuple[npt.NDArray[np.float32], ...] = ()

    def check(self) -> None:
        """Everything that holds for any model."""
        self.check_private()
        self.check_plain()
        self.check_alone()
        self.check_derivatives()
        check_kernels(self.program.scheduled.object)

    def check_private(self) -> None:
        """Norms are never below the truth, nor 0.1 % above it; sums are the clipped ones."""
        x, labels, mask = self.inputs
        sums, norms, contributing = self.program.run_step(x, labels, mask, self.values, self.masks)
        np.testing.assert_array_equal(contributing, mask.astype(np.int32))
        ratio = norms[mask > 0] / self.oracle.norms[mask > 0]
        assert ratio.min() >= 1 - 1e-6, ratio  # a bound for the gradient in float32, nearly for the true one
        assert ratio.max() <= 1.001, ratio
        for layer, found, expected in zip(self.graph.layers, sums, self.oracle.sums, strict=True):
            # Of what an example may add: the sum of all may be small, where they point different ways.
            assert np.linalg.norm(found - expected) <= 1e-5 * self.clipping_norm, layer.name

    def check_plain(self) -> None:
        """The step without privacy gives the sums of the ordinary gradients."""
        x, labels, mask = self.inputs
        whole, _, _ = self.plain.run_step(x, labels, mask, self.values, self.masks)
        for index, layer in enumerate(self.graph.layers):
            rows = zip(self.oracle.gradients, mask, strict=True)
            parts = [gradient[index] for gradient, real in rows if real]
            size = sum(np.linalg.norm(part) for part in parts)
            assert np.linalg.norm(whole[index] - sum(parts)) <= 1e-5 * size, layer.name

    def check_derivatives(self) -> None:
        """The oracle's gradient against differences of its own logits, if the last parameter is their bias.

        The gradient at that bias is softmax − onehot: for a label that is no class, the softmax itself.
        """
        if self.graph.parameter_values[-1].ndim != 1:
            return
        forward, x, label = self.graph.trained_forward, self.inputs[0][0], int(self.inputs[1][0])
        masks = [mask[0] for mask in self.masks]
        frozen, random = self.graph.frozen_values, np.random.default_rng(2)
        wide = [value.astype(np.float64) for value in self.values]

        def loss(index: int, place: tuple[int, ...], step: float) -> float:
            moved = [value.copy() if i == index else value for i, value in enumerate(wide)]
            moved[index][place] += step
            return -float(
                np.log(example_gradient(forward, moved, x, -1, frozen=frozen, masks=masks)[-1][label])
            )

        found = example_gradient(forward, wide, x, label, frozen=frozen, masks=masks)
        for index, gradient in enumerate(found):
            for _ in range(3):
                place = tuple(int(random.integers(size)) for size in gradient.shape)
                slope = (loss(index, place, 1e-5) - loss(index, place, -1e-5)) / 2e-5
                assert abs(gradient[place] - slope) <= 1e-8, (self.graph.parameter_names[index], place)

    def check_alone(self) -> None:
        """An example's part has the same bits in every slot beside anyone, and at most the clipping norm."""
        x, labels, _ = self.inputs
        expected = None
        for slot in range(MICROBATCH):
            y, z, alone = np.roll(x, slot, 0), np.roll(labels, slot, 0), np.zeros(MICROBATCH, np.float32)
            alone[slot] = 1  # the first row is here now
            if slot % 2:
                y[(slot + 1) % MICROBATCH] = np.nan
            masks = [np.roll(mask, slot, 0) for mask in self.masks]
            sums, _, _ = self.program.run_step(y, z, alone, self.values, masks)
            bits = [part.view(np.int32).copy() for part in sums]
            expected = expected or bits
            assert all(np.array_equal(a, b) for a, b in zip(bits, expected, strict=True))
            length = np.sqrt(sum((part.astype(np.float64) ** 2).sum() for part in sums))
            assert length <= self.clipping_norm * (1 + 4 * 2.0**-24)


@cache
def family(
    model: Callable[[], Any],
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int = 0,
    change: Callable[[str, Any], Any] | None = None,
) -> Family:
    """Compile ``model``; ``change`` may replace a parameter's value, by its name."""
    graph = differentiate(small_job(model, shape, classes, plan(MICROBATCH)))
    random = np.random.default_rng(11)
    moved = [v + random.normal(0, 0.1, v.shape).astype(np.float32) for v in graph.parameter_values]
    named = zip(graph.parameter_names, moved, strict=True)
    values = tuple(np.asarray(change(n, v) if change else v, np.float32) for n, v in named)
    x = random.uniform(-1, 1, (MICROBATCH, *shape))
    if vocabulary:
        x = random.integers(0, vocabulary, (MICROBATCH, *shape))
    labels, mask = random.integers(0, classes, MICROBATCH), np.ones(MICROBATCH, np.float32)
    mask[2] = 0
    inputs = (x.astype(np.float32), labels.astype(np.int32), mask)

    masks = tuple(masks_from_seed(3, range(MICROBATCH), graph.dropout))

    def oracle(clipping_norm: float) -> ClippedSums:
        return clipped_sums(
            graph.trained_forward, values, *inputs, clipping_norm, frozen=graph.frozen_values, masks=masks
        )

    clipping_norm = float(np.round(np.median(oracle(1.0).norms[mask > 0]), 6))
    private = make_private(graph, plan(MICROBATCH, clipping_norm=clipping_norm))
    return Family(
        graph,
        private,
        NativeProgram(schedule(private, TARGET)),
        NativeProgram(schedule(make_plain(graph), TARGET)),
        values,
        inputs,
        clipping_norm,
        oracle(clipping_norm),
        masks,
    )
