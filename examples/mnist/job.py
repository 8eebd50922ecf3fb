"""The two-convolution network of the Opacus and TensorFlow Privacy tutorials, on all of MNIST."""

from pathlib import Path

from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan


class Net(nn.Module):
    """26,010 parameters."""

    def __init__(self) -> None:
        self.conv1 = nn.Conv2D(1, 16, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2D(16, 32, 4, stride=2)
        self.hidden = nn.Linear(512, 32)
        self.output = nn.Linear(32, 10)

    def forward(self, features):
        x = nn.max_pool2d(nn.relu(self.conv1(features)), 2, stride=1)
        x = nn.max_pool2d(nn.relu(self.conv2(x)), 2, stride=1)
        return self.output(nn.relu(self.hidden(nn.flatten(x))))


job = Job(
    name="mnist",
    model=lambda: Net(),
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
