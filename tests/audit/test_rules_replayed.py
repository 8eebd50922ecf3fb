"""Every clipping rule through a real image: the model computed again to the bit, and what is signed of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from compiled import Compiled, compile_job, tensors_of
from reference import replay, run_keys
from typer.testing import CliRunner

from myelin.certificate import CertificateBundle, open_model, verify
from myelin.cli.app import app
from myelin.privacy import epsilon
from world import Host, World

JOB = """
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

RULES = {
    # The count's noise is 20 records, so h is 8 / sqrt(40² − 8²).
    "adaptive": (
        "AdaptiveClipping(0.6, 0.5, count_noise=20)",
        ["adaptive", 700_000_000, 600_000_000, 500_000_000, 204_124_153],
        "(adaptive, in units of the norm: from 0.7 to quantile 0.6 at rate 0.5, a record counts 0.408)",
    ),
    "automatic": ("AutomaticClipping(0.05)", ["automatic", 50_000_000], "(automatic, stability 0.05)"),
    "per layer": (
        'PerLayerClipping({"hidden": 3, "output": 4})',
        ["per-layer", 420_000_000, 560_000_000],
        "(per layer: 0.42, 0.56)",
    ),
}


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest) -> tuple[str, Sequence[object], str]:
    return RULES[request.param]


def test_the_model_is_the_mechanism_to_the_bit_and_the_certificate_says_so(
    rule: tuple[str, Sequence[object], str], tmp_path: Path, settle: Callable[[Compiled], World]
) -> None:
    source, signed, words = rule
    compiled = compile_job(tmp_path, JOB.format(rule=source))
    world = settle(compiled)
    with Host(world, threads=2) as host:
        bundle, sealed = host.run()[:2]
    computed = replay(compiled, world, run_keys(world)).model
    got = tensors_of(open_model(sealed, world.researcher), compiled.private.parameter_values)
    for a, b in zip(got, computed, strict=True):
        assert np.array_equal(a.view(np.int32), np.ascontiguousarray(b).view(np.int32))

    event = CertificateBundle.from_bytes(bundle).certificate.event
    assert event.to_map()["clipping"] == signed == compiled.image.manifest["event"]["clipping"]
    checked = verify(bundle, world.signed, allow_simulated=True, now_s=0)
    assert checked.verified, checked.to_dict()
    assert {figure.epsilon for figure in checked.privacy} == {epsilon(event.to_map(), 1e-5)}
    said = CliRunner().invoke(app, ["inspect", str(compiled.image.path)])
    assert words in " ".join(said.output.split())
