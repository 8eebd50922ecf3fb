"""The order of a step's calls: soon after what they read, and nothing before it."""

import pytest

pytest.importorskip("tvm")

from myelin.schedule.flatten import FlatCall
from myelin.schedule.order import soon


def names(calls):
    return [call.kernel for call in soon([FlatCall(*call) for call in calls])]


def test_a_call_comes_soon_after_what_it_reads():
    backward = [
        ("seed", (0,), (1,)),
        ("back1", (1,), (2,)),
        ("back2", (2,), (3,)),
        ("weight1", (1,), (4,)),
        ("weight2", (2, 3), (5,)),
        ("norm1", (4,), (6,)),
        ("clip", (6, 5), (7,)),
    ]
    assert names(backward) == ["seed", "back1", "weight1", "back2", "norm1", "weight2", "clip"]


def test_what_reads_nothing_comes_when_it_is_needed():
    calls = [("zeros", (), (1,)), ("x", (0,), (2,)), ("y", (2,), (3,)), ("sum", (1, 3), (4,))]
    assert names(calls) == ["x", "y", "zeros", "sum"]


def test_every_call_comes_once_and_after_its_inputs():
    calls = [FlatCall(str(i), tuple(j for j in range(i) if (i * j) % 3 == 1), (i,)) for i in range(40)]
    order, made = soon(calls), set()
    assert sorted(order, key=calls.index) == calls
    for call in order:
        assert made.issuperset(call.inputs)
        made.update(call.outputs)


def test_what_nothing_reads_is_kept():
    assert names([("zeros", (), (1,)), ("x", (0,), (2,))]) == ["zeros", "x"]
