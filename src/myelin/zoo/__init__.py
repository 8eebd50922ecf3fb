"""Models to begin with, one family a file, sizes as arguments; the sizes they have by default are their
namesakes'.

They are ordinary models of :mod:`myelin.model.nn`; nothing in the compiler knows them. Needs TVM
(``myelin[build]``), as every model does.
"""

from __future__ import annotations

from .adapters import add_adapters
from .bert import Bert, BertSizes, load_bert
from .lstm import Lstm
from .mnist import MnistCnn
from .perceptron import Perceptron
from .resnet import ResNet
from .transformer import Encoder, Transformer
from .vgg import Vgg
from .vision_transformer import VisionTransformer
from .wide_resnet import WideResNet

__all__ = [
    "Bert",
    "BertSizes",
    "Encoder",
    "Lstm",
    "MnistCnn",
    "Perceptron",
    "ResNet",
    "Transformer",
    "Vgg",
    "VisionTransformer",
    "WideResNet",
    "add_adapters",
    "load_bert",
]
