"""Every kernel of a compiled step counts once, as what it is for."""

from __future__ import annotations

import pytest
from benchmarks.phases import KINDS, kind_of
from benchmarks.report import PARTS


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("gemm7", "products"),
        ("winograd_weight_gradient_sum1", "products"),
        ("winograd_weight2", "other"),
        ("conv2d_weight_gradient_sum", "products"),
        ("lstm_sequence_gradient", "products"),
        ("conv2d_ghost_norm", "norms"),
        ("outer_norm2", "norms"),
        ("kept_norm", "norms"),
        ("group_normalise1", "other"),
        ("clip_flat", "sums"),
        ("sum_kept13", "sums"),
        ("embedding_sum", "sums"),
        ("sum", "sums"),
        ("plain_counted", "sums"),
        ("relu", "other"),
    ],
)
def test_a_kernel_is_of_the_kind_that_its_name_says(kernel: str, kind: str) -> None:
    assert kind_of(f"__tvm_ffi_k12_{kernel}") == kind


def test_the_report_has_words_for_every_kind() -> None:
    assert set(PARTS) == {*KINDS, "once", "noise", "rest"}
