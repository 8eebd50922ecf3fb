"""Job files of the audited images; all read the schema of `world.SCHEMA`."""

WIDE = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.first = nn.Linear(4, 200)
        self.second = nn.Linear(200, 200)
        self.third = nn.Linear(200, 3)

    def forward(self, features):
        return self.third(nn.tanh(self.second(nn.tanh(self.first(features)))))

job = Job(
    name="wide", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(1.0),
    plan=DpPlan(dataset_size=8000, expected_batch_size=2, capacity=4, microbatch=2, steps={steps},
                noise_multiplier=1.5, clipping_norm=1.0, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

REPLAYED = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import Adam, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 19)
        self.fixed = nn.freeze(nn.Linear(19, 19, bias=False))
        self.output = nn.Linear(19, 3)

    def forward(self, features):
        return self.output(nn.relu(self.fixed(nn.relu(self.hidden(features)))))

# Every other step draws more than it has slots for, and the last physical batch is never full.
job = Job(
    name="replayed", model=lambda: Net(), loss="cross_entropy", optimizer=Adam(0.01),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=64, microbatch=13, steps=40,
                noise_multiplier=8.0, clipping_norm=0.7, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

DROPPED = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 300)
        self.middle = nn.Linear(300, 19)
        self.output = nn.Linear(19, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, features):
        x = self.drop(nn.relu(self.hidden(self.drop(features))))
        return self.output(nn.dropout(nn.tanh(self.middle(x)), 0.5))

job = Job(
    name="dropped", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(0.5),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=64, microbatch=13, steps=5,
                noise_multiplier=8.0, clipping_norm=0.7, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

SUBNORMAL = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 300)
        self.output = nn.Linear(300, 3)

    def forward(self, features):
        return self.output(nn.tanh(self.hidden(features * 1e-30 * 1e-12 * 1e30 * 1e12)))

job = Job(
    name="subnormal", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(1.0),
    plan=DpPlan(dataset_size=8000, expected_batch_size=200, capacity=256, microbatch=128, steps=1,
                noise_multiplier=8.0, clipping_norm=1.0, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

CANARIES = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.output = nn.Linear(1000, 2, bias=False)

    def forward(self, features):
        return self.output(features)

# Steps are so small that the gradient of a record is the same, up to its clipping, in all of them.
job = Job(
    name="canaries", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(1.0),
    plan=DpPlan(dataset_size=1000, expected_batch_size=500, capacity=600, microbatch=50, steps=16,
                noise_multiplier=2.5, clipping_norm=1.0, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

CANARIES_SCHEMA = """
version = 1
dtype = "uint8"
normalize = "none"
shape = [1000]
lower = 0
upper = 8
[label]
column = "kind"
classes = ["a", "b"]
"""

NUMERIC_SCHEMA = """
version = 1
[label]
column = "dose"
lower = -3.0
upper = 17.0
""" + "".join(f'[[columns]]\nname = "x{i}"\nlower = -1.0\nupper = 1.0\n' for i in range(4))

REGRESSION = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import AdamW, CosineDecay, ExponentialMovingAverage, Huber, Job, LinearWarmUp, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 19)
        self.output = nn.Linear(19, 1)

    def forward(self, features):
        return self.output(nn.tanh(self.hidden(features)))

job = Job(
    name="regression", model=lambda: Net(), loss=Huber(0.3),
    optimizer=AdamW(LinearWarmUp(3, then=CosineDecay(0.05, 9)), weight_decay=0.1),
    average=ExponentialMovingAverage(0.8),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=96, microbatch=16, steps=10,
                noise_multiplier=8.0, clipping_norm=0.7, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

RULED = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import AdaptiveClipping, AutomaticClipping, DpPlan, PerLayerClipping

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 19)
        self.output = nn.Linear(19, 3)

    def forward(self, features):
        return self.output(nn.relu(self.hidden(features)))

job = Job(
    name="rules", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(0.5, momentum=0.9),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=70, microbatch=13, steps=8,
                noise_multiplier=8.0, clipping_norm=0.7, delta=1e-5, clipping={rule}),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

TURNS = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import Adam, Job, nn
from myelin.privacy import BandedNoise, DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 1500)
        self.output = nn.Linear(1500, 3)

    def forward(self, features):
        return self.output(nn.relu(self.hidden(features)))

# Four batches, the last not full, three bands, ten steps: two records in three have three turns.
job = Job(
    name="turns", model=lambda: Net(), loss="cross_entropy", optimizer=Adam(0.01),
    plan=DpPlan(dataset_size=8000, expected_batch_size=2300, capacity=2300, microbatch=130, steps=10,
                noise_multiplier=80.0, clipping_norm=0.7, delta=1e-5, correlation=BandedNoise(3)),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

IMAGES_SCHEMA = """
version = 1
dtype = "uint8"
normalize = "unit"
shape = [2, 5, 6]
lower = 0
upper = 9
[label]
column = "kind"
classes = ["a", "b", "c"]
"""

VIEWED = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan, RandomCrop, RandomFlip

class Net(nn.Module):
    def __init__(self):
        self.conv, self.output = nn.Conv2D(2, 7, 3, padding=1), nn.Linear(7 * 30, 3)
        self.drop = nn.Dropout(0.25)

    def forward(self, features):
        return self.output(self.drop(nn.flatten(nn.relu(self.conv(features)))))

# More is drawn than there are slots for in every other step.
job = Job(
    name="viewed", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(0.5),
    plan=DpPlan(dataset_size=8000, expected_batch_size=24, capacity=24, microbatch={microbatch}, steps=6,
                noise_multiplier=3.0, clipping_norm=0.7, delta=1e-5, views={views},
                augment=[RandomFlip(), RandomCrop(padding=2), RandomCrop(padding=1, edge="reflect")]),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""
