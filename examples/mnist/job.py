"""The two-convolution network of the Opacus and TensorFlow Privacy tutorials, on all of MNIST."""

from pathlib import Path

from myelin.contract import DataSchema
from myelin.model import SGD, Job
from myelin.privacy import DpPlan
from myelin.zoo import MnistCnn

job = Job(
    name="mnist",
    model=MnistCnn,
    loss="cross_entropy",
    optimizer=SGD(learning_rate=8.0),
    plan=DpPlan(
        dataset_size=60_000,
        expected_batch_size=1024,
        capacity=1216,
        microbatch=64,
        steps=700,
        noise_multiplier=0.98,
        clipping_norm=0.5,
        delta=1e-5,
    ),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
