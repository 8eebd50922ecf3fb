"""Three hospitals train one classifier of breast-cancer biopsies. No hospital shows its records to anyone."""

from pathlib import Path

from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan


class Net(nn.Module):
    """30 measurements, 16 hidden units, 2 classes."""

    def __init__(self) -> None:
        self.hidden = nn.Linear(30, 16)
        self.output = nn.Linear(16, 2)

    def forward(self, features):
        return self.output(nn.tanh(self.hidden(features)))


job = Job(
    name="hospitals",
    model=lambda: Net(),
    loss="cross_entropy",
    optimizer=SGD(learning_rate=0.5, momentum=0.9),
    plan=DpPlan(
        dataset_size=455,
        expected_batch_size=64,
        capacity=128,
        microbatch=64,
        steps=150,
        noise_multiplier=3.0,
        clipping_norm=0.25,
        delta=1e-5,
    ),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
