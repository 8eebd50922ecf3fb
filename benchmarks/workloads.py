"""What is measured: six models at their batch sizes, one of them also at a large logical batch.

One description for every system. A system builds each model in its own way; its number of parameters must be
the one given here, and whoever measures compares them. Nothing here needs more than Python 3.10.

Models, each with softmax cross-entropy averaged over the batch and one step of SGD without momentum:

``mnist_cnn``
    28×28×1; convolution 16@8×8 stride 2 padding 3, ReLU, 2×2 max-pool stride 1; convolution 32@4×4 stride 2,
    ReLU, 2×2 max-pool stride 1; linear 32, ReLU; linear 10. The model of Opacus' MNIST example.
``vgg9``
    32×32×3; 3×3 convolutions with padding 1 and ReLU: 64, 64, pool, 128, 128, pool, 256, 256, 256, pool (2×2
    max, stride 2); linear 256, ReLU; linear 10.
``resnet20``
    32×32×3; 3×3 convolution 16, then three stages of three blocks at 16, 32, 64 channels, then the mean over
    space and linear 10. A block is convolution, GroupNorm, ReLU, convolution, GroupNorm, plus the shortcut,
    ReLU. Convolutions have no bias; GroupNorm has 8 groups and ε = 1e-5, also after the first convolution
    (then ReLU). The first block of the second and third stage has stride 2 and a 1×1 convolution of stride 2
    without bias or norm as its shortcut.
``mlp``
    784-1024-1024-10 with ReLU. ``mlp_2048`` is the same at a logical batch of 2,048.
``lstm``
    Token embedding (8,192×100), one LSTM of 128 units over 64 tokens, both of PyTorch's bias vectors, linear
    2 on the last hidden state.
``transformer``
    Token embedding (8,192×256) plus a learned one for each of 128 positions; four pre-norm blocks:
    x + attention(LayerNorm(x)), x + feed-forward(LayerNorm(x)); 8 heads, fused query-key-value projection
    with bias, no mask; feed-forward 1,024 with the exact GELU; LayerNorm ε = 1e-5, none after the last
    block; mean over positions; linear 10.

A plain step draws a batch of exactly ``batch`` records uniformly. A private step draws by Poisson sampling
with probability ``batch / dataset_size``, clips each record's whole gradient to :data:`CLIPPING_NORM` (flat),
adds Gaussian noise of :data:`NOISE_MULTIPLIER` times that, and divides by ``batch``. A system with static
shapes keeps at most ``batch`` of the drawn records, so it never computes more slots than ``batch``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LEARNING_RATE = 0.05
CLIPPING_NORM = 1.0
NOISE_MULTIPLIER = 1.0
EPSILON = 1e-5
"""Added to variances by GroupNorm and LayerNorm."""

VGG9_CHANNELS = ((64, 64), (128, 128), (256, 256, 256))
RESNET20_CHANNELS = (16, 32, 64)
RESNET20_BLOCKS = 3
GROUPS = 8
MLP_WIDTHS = (784, 1024, 1024, 10)
LSTM_EMBEDDING, LSTM_UNITS = 100, 128
TRANSFORMER_LAYERS, TRANSFORMER_WIDTH, TRANSFORMER_HEADS, TRANSFORMER_FEED_FORWARD = 4, 256, 8, 1024


@dataclass(frozen=True)
class Workload:
    """One model at one batch size.

    ``shape`` is one record's, images as (channels, height, width), tokens as (length,). ``parameters`` counts
    every trainable number; ``mergeable_parameters`` of them may be left out by a system that adds the LSTM's
    two bias vectors into one. ``physical_batch`` is what a system that keeps every
    example's whole gradient computes at a time: the whole batch where that is less than a gigabyte, else 64
    examples, which no such system does slower than more.
    """

    name: str
    model: str
    kind: Literal["image", "vector", "tokens"]
    shape: tuple[int, ...]
    classes: int
    batch: int
    dataset_size: int
    parameters: int
    vocabulary: int = 0
    mergeable_parameters: int = 0
    physical_batch: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "physical_batch", self.physical_batch or self.batch)

    @property
    def sampling_rate(self) -> float:
        """Probability of one record to be drawn in a private step."""
        return self.batch / self.dataset_size

    def accepts(self, parameters: int) -> bool:
        """Whether a system that counts so many parameters built this model."""
        return parameters in {self.parameters, self.parameters - self.mergeable_parameters}


IMAGE = (3, 32, 32)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("mnist_cnn", "mnist_cnn", "image", (1, 28, 28), 10, 256, 8192, 26_010),
        Workload("vgg9", "vgg9", "image", IMAGE, 10, 64, 2048, 2_786_890),
        Workload("resnet20", "resnet20", "image", IMAGE, 10, 64, 2048, 272_282),
        Workload("mlp", "mlp", "vector", (784,), 10, 256, 8192, 1_863_690, physical_batch=64),
        Workload("mlp_2048", "mlp", "vector", (784,), 10, 2048, 8192, 1_863_690, physical_batch=64),
        Workload(
            "lstm", "lstm", "tokens", (64,), 2, 64, 8192, 937_218, vocabulary=8192, mergeable_parameters=512
        ),
        Workload("transformer", "transformer", "tokens", (128,), 10, 32, 4096, 5_291_530, vocabulary=8192),
    )
}
"""By name, in the order of the report."""

INFERENCE = {"vgg9": (1, 64), "resnet20": (1, 64)}
"""Batch sizes at which a workload's forward pass alone is measured, as modes ``inference_b1`` and so on."""
