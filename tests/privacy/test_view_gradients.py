"""Augmentation multiplicity: records' gradients against the oracle, and the views' own law."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_jobs import plan, small_job

from myelin.errors import BuildError, InputError
from myelin.graph import differentiate
from myelin.image.check import check_kernels
from myelin.model import nn
from myelin.privacy import (
    AutomaticClipping,
    DpPlan,
    Event,
    PerLayerClipping,
    RandomCrop,
    RandomFlip,
    epsilon,
    inspect_step,
    make_private,
)
from myelin.privacy.augment import augmentation_of, draw_views
from myelin.privacy.dropout import masks_from_seed
from myelin.privacy.keystream import groups
from myelin.privacy.oracle import ClippedSums, clipped_sums
from myelin.schedule import NativeProgram, schedule
from myelin.zoo import ResNet, VisionTransformer

KEY, VIEWS = bytes(range(32)), 3
AUGMENT = (RandomFlip(), RandomCrop(padding=2), RandomCrop(padding=1, edge="reflect"))
SHAPE = (3, 8, 8)


class Layers(nn.Module):
    """Kinds that the zoo's models lack: transposed, grouped, dilated, recurrent, shared, with dropout."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(3, 6, 3, groups=3, bias=False)
        self.second = nn.Conv2D(6, 6, 3, dilation=2)
        self.up = nn.ConvTranspose2D(6, 3, 2, stride=2)
        self.norm, self.drop = nn.GroupNorm(3, 3), nn.Dropout(0.25)
        self.position = nn.Position(4, 12)
        self.tied, self.lstm, self.gru = nn.Linear(12, 12), nn.LSTM(12, 5), nn.GRU(5, 4)
        self.output = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.norm(self.up(nn.tanh(self.second(self.first(x))))))
        x = self.position(nn.reshape(self.drop(x), 4, 12))
        x = self.tied(nn.tanh(self.tied(x)))
        return self.output(nn.step(self.gru(self.lstm(self.drop(x))), -1))


class Flat(nn.Module):
    """One linear layer, quick to compile."""

    def __init__(self) -> None:
        self.output = nn.Linear(192, 3)

    def forward(self, x: Any) -> Any:
        return self.output(nn.flatten(x))


CASES: dict[str, Callable[[], Any]] = {
    "flat": Flat,
    "layers": Layers,
    "resnet": lambda: ResNet(1, 6, 3, 3),
    "vision transformer": lambda: VisionTransformer(8, 4, 3, 1, 12, 3, 20, 3),
}


def viewed_plan(**changes: Any) -> DpPlan:
    given: dict[str, Any] = {
        "expected_batch_size": 4,
        "capacity": 8,
        "augment": AUGMENT,
        "views": VIEWS,
        **changes,
    }
    return plan(given.pop("microbatch", 1), **given)


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return CASES[request.param]


def records(count: int = 3) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    random = np.random.default_rng(11)
    x = random.uniform(-1, 1, (count, *SHAPE)).astype(np.float32)
    return x, random.integers(0, 3, count).astype(np.int32)


class Built:
    """A model's private step for records of several views, its values, and the oracle."""

    def __init__(self, make: Callable[[], Any], **changes: Any) -> None:
        self.x, self.y = records()
        self.graph = differentiate(small_job(make, SHAPE, 3, viewed_plan(**changes)))
        random = np.random.default_rng(7)
        values = self.graph.parameter_values
        self.values = [v + random.normal(0, 0.1, v.shape).astype(np.float32) for v in values]
        self.views = draw_views(bytes(32), 1, range(3), self.x, AUGMENT, VIEWS)
        self.masks = masks_from_seed(0, range(3), self.graph.dropout, VIEWS)
        norms = self.oracle(viewed_plan(**changes)).norms
        self.plan = viewed_plan(**{"clipping_norm": float(np.round(np.median(norms), 6)), **changes})

    def oracle(self, the_plan: DpPlan, masks: Sequence[Any] | None = None) -> ClippedSums:
        return clipped_sums(
            self.graph.trained_forward,
            self.values,
            self.views,
            list(self.y),
            np.ones(3),
            the_plan.clipping_norm,
            rule=the_plan.clipping,
            names=self.graph.parameter_names,
            masks=self.masks if masks is None else masks,
            views=VIEWS,
        )


@pytest.mark.numeric
def test_a_records_gradient_is_the_mean_of_its_views_and_is_clipped_as_one(
    model: Callable[[], Any],
) -> None:
    """Norms are never below the truth, nor 0.1 % above it; sums are the clipped ones. Half are clipped."""
    built = Built(model)
    found = inspect_step(model, built.values, built.x, built.y, built.plan)
    oracle = built.oracle(built.plan)
    ratio = found.per_example_norms / oracle.norms
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.001
    for index, name in enumerate(built.graph.parameter_names):
        apart = np.linalg.norm(found.clipped_sum[name] - oracle.sums[index])
        assert apart <= 1e-5 * built.plan.clipping_norm, name
        norms = np.array([np.linalg.norm(gradient[index]) for gradient in oracle.gradients])
        assert (found.per_layer_norms[name] >= norms * (1 - 1e-5) - 1e-7).all(), name


@pytest.mark.numeric
def test_an_image_of_it_has_only_what_it_may(model: Callable[[], Any]) -> None:
    built = Built(model)
    private = make_private(built.graph, built.plan)
    check_kernels(schedule(private, "x86-64-v3").object)
    assert {choice.strategy for choice in private.table} == {"keep"}


@pytest.mark.numeric
@pytest.mark.parametrize("rule", [AutomaticClipping(), PerLayerClipping()], ids=["automatic", "per layer"])
def test_every_clipping_rule_is_of_the_record(rule: Any) -> None:
    built = Built(CASES["resnet"], clipping=rule)
    found = inspect_step(CASES["resnet"], built.values, built.x, built.y, built.plan)
    oracle = built.oracle(built.plan)
    for index, name in enumerate(built.graph.parameter_names):
        apart = np.linalg.norm(found.clipped_sum[name] - oracle.sums[index])
        assert apart <= 1e-5 * built.plan.clipping_norm, name


@pytest.mark.numeric
def test_a_record_adds_at_most_the_clipping_norm_and_nothing_with_one_view_that_is_not_finite() -> None:
    make = CASES["flat"]
    built = Built(make, clipping_norm=1e-3)
    program = NativeProgram(schedule(make_private(built.graph, built.plan), "x86-64-v3"))
    one = np.ones(1, np.float32)

    def length(views: Any, mask: Any = one) -> float:
        sums, _, contributing = program.run_step(views, np.zeros(VIEWS, np.int32), mask, built.values)
        assert contributing[0] == (np.isfinite(views).all() and mask[0])
        return float(np.sqrt(sum((part.astype(np.float64) ** 2).sum() for part in sums)))

    views = built.views[:VIEWS]
    assert 0.999e-3 <= length(views) <= 1e-3 * (1 + 4 * 2.0**-24)
    assert length(views, np.zeros(1, np.float32)) == 0
    for view in range(VIEWS):
        spoiled = views.copy()
        spoiled[view, 0, 3, 3] = np.nan
        assert length(spoiled) == 0


@pytest.mark.numeric
def test_each_view_has_masks_of_its_own() -> None:
    """What agrees with the oracle above does not with the first view's masks for all."""
    built = Built(Layers)
    assert len(built.masks) == 2
    for mask in built.masks:
        assert len({mask[view].tobytes() for view in range(3 * VIEWS)}) == 3 * VIEWS
    same = [np.repeat(mask[::VIEWS], VIEWS, 0) for mask in built.masks]
    other, own = built.oracle(built.plan, same), built.oracle(built.plan)
    assert max(np.abs(a - b).max() for a, b in zip(other.sums, own.sums, strict=True)) > 1e-3
    given = [mask.reshape(3, VIEWS, *mask.shape[1:]) for mask in same]
    found = inspect_step(Layers, built.values, built.x, built.y, built.plan, masks=given)
    np.testing.assert_allclose(found.per_example_norms, other.norms, rtol=1e-4)


def test_views_that_are_given_are_taken() -> None:
    the_plan, (x, y) = viewed_plan(), records()
    make = CASES["flat"]
    views = draw_views(bytes(32), 1, range(3), x, AUGMENT, VIEWS).reshape(3, VIEWS, *SHAPE)
    found = inspect_step(make, None, x, y, the_plan, views=views)
    drawn = inspect_step(make, None, x, y, the_plan)
    np.testing.assert_array_equal(found.per_example_norms, drawn.per_example_norms)
    other = inspect_step(make, None, x, y, the_plan, views=5)
    assert not np.array_equal(found.per_example_norms, other.per_example_norms)
    with pytest.raises(InputError, match=r"views: expected shape \(3, 3, 3, 8, 8\), got \(3, 3, 8, 8\)"):
        inspect_step(make, None, x, y, the_plan, views=x)


def test_a_view_is_the_image_from_another_place() -> None:
    """By hand, from the words: what the mirrored or moved image has at every place."""
    image = np.arange(1, 193, dtype=np.float32).reshape(1, *SHAPE)
    views = draw_views(KEY, 5, [77], image, AUGMENT, 40)
    for view, words in zip(views, groups(KEY, 5, 77, 0, 40).reshape(40, 256), strict=True):
        seen = image[0, :, :, ::-1] if words[0] < 2**31 else image[0]
        for (a, b), padding, mode in ((words[2:4], 2, "constant"), (words[4:6], 1, "reflect")):
            padded = np.pad(seen, ((0, 0), (padding, padding), (padding, padding)), mode)
            down, across = (int(word) * (2 * padding + 1) // 2**32 for word in (a, b))
            seen = padded[:, down : down + 8, across : across + 8]
        np.testing.assert_array_equal(view, seen)


def test_a_view_depends_on_key_step_record_and_number_and_on_nobody_else() -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (5, *SHAPE)).astype(np.float32)
    crops = [RandomCrop(padding=7, edge="reflect")] * 3
    together = draw_views(KEY, 5, [3, 1, 4, 15, 9], image, crops, 2)
    alone = draw_views(KEY, 5, [15], image[3:4], crops, 2)
    np.testing.assert_array_equal(together[6:8], alone)
    assert not np.array_equal(alone[0], alone[1])
    for other in (
        draw_views(KEY, 6, [15], image[3:4], crops, 2),
        draw_views(bytes(32), 5, [15], image[3:4], crops, 2),
        draw_views(KEY, 5, [16], image[3:4], crops, 2),
    ):
        assert not np.array_equal(other[0], alone[0])


def test_places_and_mirrorings_are_as_likely_as_each_other() -> None:
    image = np.zeros((2000, 1, 4, 4), np.float32)
    image[:, 0, 1, 2] = 1
    views = draw_views(KEY, 1, range(2000), image, [RandomFlip(), RandomCrop(padding=1)], 1)
    counts = views.sum(0)[0]
    # Mirrored, the point is in column 1; moved by at most one, in any of rows 0 to 2 and columns 0 to 3.
    expected = np.outer([1, 1, 1, 0], [1, 2, 2, 1]) / 18
    assert (np.abs(counts - 2000 * expected) <= 5 * np.sqrt(2000 * expected)).all(), counts


def test_epsilon_does_not_depend_on_views() -> None:
    bare, viewed = plan(1, capacity=8), plan(1, capacity=8, augment=AUGMENT, views=16)
    assert epsilon(bare.event(1000, 10**9 + 1), 1e-5) == epsilon(viewed.event(1000, 10**9 + 1), 1e-5)
    event = Event.from_map(viewed.event(1000, 10**9 + 1))
    assert event.as_map()["augment"] == [["flip"], ["crop", 2], ["reflected-crop", 1]]
    assert event.views == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views: expected 1 to 1024, got 0"),
        ({"views": 2000}, "views: expected 1 to 1024"),
        ({"views": 2, "augment": []}, "several views"),
        ({"augment": [["turn"]]}, r"augment: expected \['flip'\]"),
        ({"augment": [["flip", 1]]}, r"augment: expected \['flip'\]"),
        ({"augment": [["crop"]]}, r"augment: expected \['flip'\]"),
        ({"augment": [["crop", 0]]}, "padding: expected 1 to 255"),
        ({"augment": [["crop", 1.5]]}, "padding: expected 1 to 255"),
        ({"augment": "flip"}, "at most 8 augmentations"),
        ({"augment": [["flip"]] * 9}, "at most 8 augmentations"),
    ],
)
def test_events_with_views_that_are_none_are_refused(changes: dict[str, Any], message: str) -> None:
    event = plan(1, capacity=8).event(1000, 10**9 + 1)
    with pytest.raises(InputError, match=message):
        Event.from_map({**event, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"microbatch": 2}, "Give microbatch=1: a physical batch is then 3 examples"),
        ({"augment": ()}, "all views would be the record itself"),
        ({"augment": ["flip"]}, r"Give \[RandomFlip\(\), RandomCrop\(padding=4\)\]"),
        ({"augment": [RandomFlip()] * 9}, "at most 8 augmentations, got 9"),
        ({"views": 0}, "DpPlan.views: expected 1 to 1024"),
    ],
)
def test_plans_that_cannot_be_are_refused_with_advice(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        viewed_plan(**changes)


def test_augmentations_of_what_is_no_image_are_refused_by_name() -> None:
    for padding, edge in ((0, "zero"), (256, "zero"), (2.0, "zero"), (1, "wrap")):
        with pytest.raises(InputError, match="RandomCrop"):
            RandomCrop(padding, edge)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"RandomFlip: expected images, .*got shape \(30,\)"):
        differentiate(small_job(lambda: nn.Linear(30, 3), (30,), 3, viewed_plan()))
    with pytest.raises(InputError, match="height and width, 8 and 8, got 8"):
        differentiate(small_job(CASES["resnet"], SHAPE, 3, viewed_plan(augment=[RandomCrop(8)])))
    assert augmentation_of(("reflected-crop", 3)) == RandomCrop(3, "reflect")


def test_a_graph_of_views_of_several_records_is_refused() -> None:
    built = differentiate(small_job(CASES["resnet"], SHAPE, 3, viewed_plan()))
    two = dataclasses.replace(built, microbatch=2)
    with pytest.raises(BuildError, match="views: 3 of each record, and a microbatch of 2 records"):
        make_private(two, plan(2, capacity=8))
