"""Every clipping rule through a real image: the model computed again to the bit, and what is signed of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from compiled import Compiled, compile_job
from jobs import RULED
from reference import run_certified
from typer.testing import CliRunner

from myelin.cli.app import app
from world import World

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
    compiled = compile_job(tmp_path, RULED.format(rule=source))
    event = run_certified(compiled, settle(compiled))
    assert event["clipping"] == signed == compiled.image.manifest["event"]["clipping"]
    said = CliRunner().invoke(app, ["inspect", str(compiled.image.path)])
    assert words in " ".join(said.output.split())
