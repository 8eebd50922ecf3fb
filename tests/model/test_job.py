"""Jobs: their values, their files, their errors, and that reading them needs no compiler."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from myelin.errors import BuildError, InputError
from myelin.model import (
    SGD,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Constant,
    CosineDecay,
    CrossEntropy,
    DPAdamBC,
    ExponentialMovingAverage,
    Huber,
    Job,
    LinearWarmUp,
    MeanSquaredError,
    StepDecay,
    initial_values,
    load_job,
)

PLAN = SimpleNamespace(capacity=8, microbatch=4, noise_multiplier=1.0, clipping_norm=1.0)
SCHEMA = SimpleNamespace(shape=(3,), label=SimpleNamespace(classes=("a", "b")))
THREE = SimpleNamespace(shape=(3,), label=SimpleNamespace(classes=("a", "b", "c")))
NUMERIC = SimpleNamespace(shape=(3,), label=SimpleNamespace(lower=0.0, upper=1.0))

GOOD = """
from types import SimpleNamespace
from myelin.model import Job, SGD
from beside import NAME
plan = SimpleNamespace(capacity=8, microbatch=4, noise_multiplier=1.0, clipping_norm=1.0)
schema = SimpleNamespace(shape=(3,), label=SimpleNamespace(classes=("a", "b")))
name = open("name.txt").read() + NAME
job = Job(name, model=object, loss="cross_entropy", optimizer=SGD(0.1), plan=plan, schema=schema)
"""


def job(**changes: object) -> Job:
    values = {
        "name": "j",
        "model": object,
        "loss": "cross_entropy",
        "optimizer": SGD(0.1),
        "plan": PLAN,
        "schema": SCHEMA,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "job name: expected text of 1 to 128 bytes, got ''"),
        ({"model": 3}, "job model: expected a callable"),
        ({"loss": "mse"}, "job loss: expected CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError(), Hub"),
        (
            {"loss": Huber(1.0)},
            "job loss: Huber needs a numeric label, but the schema's label has 2 classes",
        ),
        ({"loss": MeanSquaredError()}, "give the label lower and upper instead of classes"),
        ({"loss": CrossEntropy(ignore_index=2)}, "expected an index of the schema's 2 classes"),
        ({"schema": NUMERIC}, "CrossEntropy needs a label with classes, but the schema's label is numeric"),
        ({"schema": NUMERIC, "loss": BinaryCrossEntropy()}, "use MeanSquaredError or Huber"),
        (
            {"schema": THREE, "loss": BinaryCrossEntropy()},
            "needs a label of two classes, but the sch",
        ),
        ({"average": 0.99}, "job average: expected ExponentialMovingAverage or None"),
        ({"optimizer": "sgd"}, "job optimizer: expected SGD, Adam, AdamW or DPAdamBC"),
        ({"plan": {}}, "job plan: expected a myelin.privacy.DpPlan"),
        ({"schema": None}, "job schema: expected a myelin.contract.DataSchema"),
        ({"seed": -1}, "job seed: expected a whole number"),
        ({"seed": True}, "job seed: expected a whole number"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        job(**changes)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.0),
        lambda: SGD(float("nan")),
        lambda: SGD(0.1, momentum=1.0),
        lambda: Adam(beta1=1.0),
        lambda: Adam(beta2=-0.1),
        lambda: Adam(epsilon=0.0),
        lambda: Adam(learning_rate=float("inf")),
        lambda: SGD("fast"),
        lambda: SGD(0.1, weight_decay=-1.0),
        lambda: AdamW(CosineDecay(0.5, 10), weight_decay=2.0),
        lambda: DPAdamBC(floor=0.0),
        lambda: Constant(0.0),
        lambda: CosineDecay(0.1, 10, final=-0.1),
        lambda: StepDecay(0.1, 10, factor=1.5),
        lambda: LinearWarmUp(10, then=LinearWarmUp(10, then=0.1)),
        lambda: ExponentialMovingAverage(1.0),
        lambda: CrossEntropy(label_smoothing=1.0),
        lambda: Huber(0.0),
    ],
)
def test_what_cannot_train_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="expected a number"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "make",
    [lambda: CosineDecay(0.1, 0), lambda: StepDecay(0.1, 2**31), lambda: LinearWarmUp(1.5, then=0.1)],
)
def test_steps_of_a_schedule_are_whole_numbers(make: object) -> None:
    with pytest.raises(InputError, match="expected a whole number from 1 to 2147483647"):
        make()  # type: ignore[operator]


def test_a_loss_may_be_named() -> None:
    assert job().loss == CrossEntropy() == job(loss=CrossEntropy()).loss
    assert job().outputs == 2
    assert job(loss=BinaryCrossEntropy()).outputs == 1
    assert job(loss=Huber(0.5), schema=NUMERIC).outputs == 1


def test_a_job_file_sees_its_folder(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(GOOD)
    (tmp_path / "beside.py").write_text("NAME = 'spitals'\n")
    (tmp_path / "name.txt").write_text("ho")
    before = list(sys.path), Path.cwd()
    assert load_job(tmp_path / "job.py").name == "hospitals"
    assert (list(sys.path), Path.cwd()) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "expected job = myelin.model.Job(...), got nothing of that name"),
        ("job = 3\n", "expected job = myelin.model.Job(...), got int"),
        ("\n\njob = (\n", "job.py:3: not valid Python"),
        ("\n1 / 0\n", "job.py:2: the job file raised ZeroDivisionError"),
        ("\n\nraise SystemExit(3)\n", "job.py:3: the job file raised SystemExit"),
        (
            "from myelin.model import SGD\nSGD(-1.0)\n",
            "job.py:2: SGD learning_rate: expected a number above 0",
        ),
    ],
)
def test_a_bad_job_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "job.py").write_text(text)
    with pytest.raises(InputError) as error:
        load_job(tmp_path / "job.py")
    assert said in str(error.value)


def test_a_missing_job_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py: no such job file"):
        load_job(tmp_path / "none.py")


def test_a_job_can_be_described_without_the_compiler() -> None:
    code = (
        "import sys; sys.modules['tvm'] = None\n"
        "import myelin.privacy\nfrom myelin.model import Job, SGD, Adam\nfrom myelin.privacy import DpPlan\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_without_the_compiler_say_what_is_missing() -> None:
    code = "import sys; sys.modules['tvm'] = None\nfrom myelin.model import nn\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "install myelin[build]" in done.stderr


@pytest.mark.parametrize("layer", ["BatchNorm2D", "Conv3D", "Attention", "SiLU"])
def test_layers_that_cannot_be_private_are_refused_by_name(layer: str) -> None:
    from myelin.model import nn

    with pytest.raises(BuildError, match=f"nn.{layer} cannot be made private: .*(use|leave it out)"):
        getattr(nn, layer)
    with pytest.raises(AttributeError, match="no layer 'Nonsense'"):
        nn.Nonsense  # noqa: B018


def test_initial_values_are_uniform_within_the_gain_and_never_change() -> None:
    shapes, gains = [(64, 50), (64,), (8, 4, 5, 5)], [2.0**0.5, 1.0, 1.0]
    weight, vector, kernel = initial_values(shapes, gains, seed=7)
    assert (initial_values(shapes, gains, seed=7, ones={1})[1] == 1).all()
    assert [v.dtype for v in (weight, vector, kernel)] == [np.float32] * 3
    assert not vector.any()
    for value, gain, fan_in in ((weight, gains[0], 50), (kernel, gains[2], 100)):
        bound = gain * (3.0 / fan_in) ** 0.5
        assert np.abs(value).max() <= bound
        assert value.std() == pytest.approx(gain / fan_in**0.5, rel=0.05)
    again = initial_values(shapes, gains, seed=7)
    assert all(np.array_equal(a, b) for a, b in zip((weight, vector, kernel), again, strict=True))
    assert not np.array_equal(weight, initial_values(shapes, gains, seed=8)[0])
    digest = hashlib.sha256(weight.tobytes() + kernel.tobytes()).hexdigest()
    assert digest == KNOWN


KNOWN = "c865df1f92a258e147d8ff2dc98e998e505e18aad03ff9051b1859cb2174d7b3"
