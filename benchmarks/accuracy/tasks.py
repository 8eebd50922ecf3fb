"""What is trained: data, model and hyperparameters of each task, and the ε that it is trained to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from myelin.contract import DataSchema
from myelin.demo.datasets import mnist
from myelin.model import SGD, Adam, Job, Optimizer
from myelin.privacy import DpPlan, calibrate
from myelin.zoo import MnistCnn, Perceptron, add_adapters, load_bert

from .tables import adult, credit
from .text import LENGTH, encoder_folder, film_reviews
from .training import Data

SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Plain:
    """How the same model is trained without privacy."""

    epochs: int
    learning_rate: float
    batch: int


def numbers_of(plan: DpPlan) -> dict[str, float]:
    """What a record holds of a plan: its numbers. Every task clips flat, with independent noise."""
    return {name: value for name, value in plan.as_dict().items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Task:
    """One model on one data set."""

    title: str
    data: Callable[[], Data]
    model: Callable[[int], Any]
    epsilons: Sequence[float]
    batch: int
    microbatch: int
    steps: int
    clipping_norm: float
    optimizer: Optimizer
    plain: Plain
    delta: float = 1e-5
    upper: float = 1.0
    anchors: tuple[tuple[float, float, str], ...] = ()
    """(ε, accuracy, whose): published figures to compare with."""
    logistic_norm: float | None = None
    """The norm that diffprivlib's logistic regression clips examples to, where it takes part."""

    def plan(self, noise_multiplier: float, records: int) -> DpPlan:
        """The plan with that noise."""
        return DpPlan(
            records,
            self.batch,
            min(records, int(self.batch + 6 * self.batch**0.5)),
            self.microbatch,
            self.steps,
            noise_multiplier,
            self.clipping_norm,
            self.delta,
        )

    def calibrated(
        self, epsilon: float, records: int, parameters: int, known: Sequence[Mapping[str, Any]] = ()
    ) -> DpPlan:
        """The plan of that ε. Finding its noise takes long: ``known`` plans that were found for it are looked
        at first, and one that is the task's but for the noise is taken."""
        for plan in known:
            if numbers_of(self.plan(plan["noise_multiplier"], records)) == plan:
                return self.plan(plan["noise_multiplier"], records)
        unfound = self.plan(1.0, records)
        noise = calibrate(
            epsilon,
            self.delta,
            dataset_size=records,
            expected_batch_size=self.batch,
            capacity=unfound.capacity,
            steps=self.steps,
            parameters=parameters,
        )
        return self.plan(noise, records)

    def job(self, name: str, plan: DpPlan, data: Data) -> Job:
        """The task as a job."""
        classes = int(data.labels.max()) + 1
        schema = DataSchema.from_mapping(
            {
                "shape": list(data.features.shape[1:]),
                "lower": 0.0,
                "upper": self.upper,
                "normalize": "none",
                "label": {"classes": [str(index) for index in range(classes)]},
            }
        )
        return Job(
            name, lambda: self.model(data.features.shape[1]), "cross_entropy", self.optimizer, plan, schema
        )


@cache
def mnist_data() -> Data:
    """MNIST, grey values in [0, 1]."""
    split = mnist()
    features, test = (
        (part / np.float32(255)).astype(np.float32) for part in (split.features, split.test_features)
    )
    return Data(features, split.labels.astype(np.int32), test, split.test_labels.astype(np.int32))


_TABLE = Task(
    title="",
    data=adult,
    model=lambda features: Perceptron((features, 32, 2), "tanh"),
    epsilons=(0.5, 1.0, 2.0, 4.0, 8.0),
    batch=1024,
    microbatch=128,
    steps=300,
    clipping_norm=1.0,
    optimizer=Adam(0.01),
    plain=Plain(8, 0.02, 128),
    logistic_norm=4.0,
)

TASKS: dict[str, Task] = {
    "adult": replace(_TABLE, title="Adult: income over 50,000 dollars, 45,222 people", data=cache(adult)),
    "credit": replace(
        _TABLE,
        title="Credit-card default, Taiwan, 30,000 people",
        data=cache(credit),
    ),
    "mnist_relu": Task(
        title="MNIST: the tutorials' network, ReLU",
        data=mnist_data,
        model=lambda _: MnistCnn(),
        epsilons=(1.16, 2.91, 6.86),
        batch=1024,
        microbatch=64,
        steps=700,
        clipping_norm=0.5,
        optimizer=SGD(8.0),
        plain=Plain(5, 0.05, 64),
        anchors=(
            (1.16, 0.9463, "Opacus tutorial"),
            (2.91, 0.9678, "Opacus tutorial"),
            (6.86, 0.9709, "Opacus tutorial"),
            (1.19, 0.950, "TF-Privacy tutorial"),
            (3.01, 0.966, "TF-Privacy tutorial"),
            (7.10, 0.970, "TF-Privacy tutorial"),
        ),
    ),
    "mnist_tanh": Task(
        title="MNIST: the same network with tanh (Papernot et al. 2021)",
        data=mnist_data,
        model=lambda _: MnistCnn(activation="tanh"),
        epsilons=(3.0,),
        batch=512,
        microbatch=64,
        steps=4700,
        clipping_norm=0.1,
        optimizer=SGD(0.5, momentum=0.9),
        plain=Plain(5, 0.05, 64),
        anchors=((3.0, 0.981, "Papernot et al. 2021"),),
    ),
    "film_reviews": Task(
        title="Film reviews: LoRA of all-MiniLM-L6-v2 (BERT, 22.7 M parameters), 10,072 sentences",
        data=cache(film_reviews),
        model=lambda _: add_adapters(load_bert(encoder_folder(), LENGTH, 2), 4, 8.0),
        epsilons=(3.0, 1.0, 8.0),
        batch=192,
        microbatch=8,
        steps=30,
        clipping_norm=0.5,
        optimizer=Adam(0.006),
        plain=Plain(1, 0.1, 16),
        upper=30_521.0,
    ),
}
"""By name, the cheapest first."""
