"""Every model of the zoo in a small size: odd where it may be, so that every kernel has a rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from myelin.zoo import (
    Lstm,
    MnistCnn,
    Perceptron,
    ResNet,
    Transformer,
    Vgg,
    VisionTransformer,
    WideResNet,
    add_adapters,
)


@dataclass(frozen=True)
class Small:
    """What makes a model, and the data that it takes; ``vocabulary`` is 0 where features are numbers."""

    make: Callable[[], Any]
    shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0


def transformer() -> Transformer:
    return Transformer(2, 12, 3, 20, 7, 19, 4, final_norm=True)


SMALL: dict[str, Small] = {
    "mnist_cnn": Small(MnistCnn, (1, 28, 28), 10),
    "mnist_cnn_tanh": Small(lambda: MnistCnn(3, "tanh"), (1, 28, 28), 3),
    "vgg9": Small(lambda: Vgg(((5, 4), (6, 3), (4, 5, 3)), 8, 7, 4), (3, 8, 8), 4),
    "resnet20": Small(lambda: ResNet(1, 6, 3, 4), (3, 9, 8), 4),
    "wrn16_4": Small(lambda: WideResNet(1, 2, 3, 6, 4), (3, 9, 8), 4),
    "mlp": Small(lambda: Perceptron((13, 11, 9, 4)), (13,), 4),
    "lstm": Small(lambda: Lstm(17, 5, 6, 3), (7,), 3, 17),
    "transformer": Small(transformer, (7,), 4, 19),
    "vit": Small(lambda: VisionTransformer(9, 3, 2, 2, 12, 3, 20, 4), (2, 9, 9), 4),
    "adapters": Small(lambda: add_adapters(transformer(), 2, 3.0), (7,), 4, 19),
}
