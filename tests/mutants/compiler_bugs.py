"""Bugs in what the compiler makes of a model: norms, coefficients, clipped sums, the plan of the image."""

from __future__ import annotations

from bug import Bug

P = "src/myelin/privacy"
T = "tests/privacy"

_BIAS = """RULE = Rule(
    strategies=(kept_strategy(_flops, lambda builder, site: _sum(builder, site, 1), kept_norm),),
"""

_BIAS_OF_POSITIONS = """from .strategy import Normed, Strategy, kept_cost, kept_sum

RULE = Rule(
    strategies=(
        Strategy(
            "keep",
            lambda _site: True,
            lambda site: kept_cost(site, _flops(site), site.values),
            lambda builder, site: Normed(kept_norm(builder, site.gradients[0]), _sum(builder, site, 1)),
            lambda builder, _site, part, coefficients: kept_sum(builder, part.kept, coefficients),
        ),
    ),
"""

_LAST_USE_ONLY = """kept, uses = gradient(builder, site), site.layer.uses
        from dataclasses import replace

        layer = replace(site.layer, uses=uses[-1:])
        last = Site(layer, site.inputs[-1:], site.gradients[-1:])
        return Normed(norm(builder, gradient(builder, last)), kept)"""

COMPILER = (
    Bug(
        "ghost sums without coefficients",
        f"{P}/linear.py",
        "op.where(counts, op.multiply(site.gradients[0], column), zero)",
        "op.where(counts, site.gradients[0], zero)",
        (f"{T}/test_private_graph.py::test_the_step_agrees_with_the_oracle[1.0-logistic]",),
        "ghost mode ignored max_grad_norm (Opacus 664)",
    ),
    Bug(
        "kept sums without coefficients",
        f"{P}/strategy.py",
        "selected(factor > zero, factor * g[(example, *index)], zero)",
        "selected(factor > zero, g[(example, *index)], zero)",
        (f"{T}/test_clipping.py::test_sums_select_and_never_multiply_what_is_not_counted",),
        "the clipping norm is ignored in one strategy (Opacus 664)",
    ),
    Bug(
        "kept sums multiply by zero",
        f"{P}/strategy.py",
        "selected(factor > zero, factor * g[(example, *index)], zero)",
        "factor * g[(example, *index)]",
        (f"{T}/test_clipping.py::test_sums_select_and_never_multiply_what_is_not_counted",),
        "NaN survives clipping (Re:cord-play 2602.17454, Opacus among others)",
    ),
    Bug(
        "ghost sums multiply by zero",
        f"{P}/linear.py",
        'inputs = builder.emit(op.where(counts, site.inputs[0], zero), name_hint="inputs")',
        'inputs = builder.emit(op.multiply(site.inputs[0], op.astype(counts, "float32")))',
        (f"{T}/test_private_graph.py::test_a_bad_example_changes_no_bit_of_the_others",),
        "NaN survives clipping (Re:cord-play 2602.17454, Opacus among others)",
    ),
    Bug(
        "a norm that is not finite is clipped like any other",
        f"{P}/clipping.py",
        "return tirx.all(real[i] > half, norm[i] <= _wide(LARGEST_NORM))",
        "return real[i] > half",
        (f"{T}/test_clipping.py::test_coefficients_never_let_more_than_the_clipping_norm_pass",),
        "NaN survives clipping (Re:cord-play 2602.17454, Opacus among others)",
    ),
    Bug(
        "padded rows contribute",
        f"{P}/clipping.py",
        "return tirx.all(real[i] > half, norm[i] <= _wide(LARGEST_NORM))",
        "return norm[i] <= _wide(LARGEST_NORM)",
        (f"{T}/test_clipping.py::test_coefficients_never_let_more_than_the_clipping_norm_pass",),
        "padding of fixed shapes enters the sum (is_padding_example forgotten)",
    ),
    Bug(
        "one norm for the whole physical batch",
        f"{P}/clipping.py",
        'squares = squares + part[i].astype("float64") * part[i].astype("float64")',
        'squares = squares + part[0].astype("float64") * part[0].astype("float64")',
        (f"{T}/test_clipping.py::test_coefficients_never_let_more_than_the_clipping_norm_pass",),
        "microbatches clipped instead of examples (TF-Privacy 2024-08-30)",
    ),
    Bug(
        "coefficients are rounded to the nearest",
        f"{P}/clipping.py",
        "lowered = (limit / norm * _wide(LOWERED))",
        "lowered = (limit / norm * _wide(1.0))",
        (f"{T}/test_clipping.py::test_coefficients_never_let_more_than_the_clipping_norm_pass",),
        "clipping in floats lets more than the norm pass (Haney 2022)",
    ),
    Bug(
        "a kept norm without its error bound",
        f"{P}/clipping.py",
        "* _wide(1.0 + _CHAIN_SLACK)",
        "* _wide(1.0)",
        (f"{T}/test_clipping.py::test_float32_chains_of_64_are_covered_by_the_bound",),
        "a float32 norm below the truth: 0.92 to 1.14 times it where terms cancel",
    ),
    Bug(
        "a linear ghost norm without its error bound",
        f"{P}/clipping.py",
        "return _finite(fits, tirx.sqrt(left * right) * _wide(1.0 + _SLACK))",
        "return _finite(fits, tirx.sqrt(left * right) * _wide(1.0 - 2.0**-22))",
        (f"{T}/test_clipping.py::test_norms_are_upper_bounds_and_tight_for_any_floats",),
        "a float32 norm below the truth: 0.92 to 1.14 times it where terms cancel",
    ),
    Bug(
        "a convolution's ghost norm without its error bound",
        f"{P}/conv2d_ghost.py",
        "bound = (length + (walk + size) * _wide(_UNIT * (1 + 2.0**-10)) + lost) * _wide(1.0 + 2.0**-22)",
        "bound = length",
        ("tests/schedule/test_ghost.py::test_bound_under_cancellation",),
        "a float32 ghost norm under cancellation: 0.92 to 1.14 times the truth",
    ),
    Bug(
        "a kept norm of some of a convolution's inputs",
        "src/myelin/schedule/kernels/winograd_gradient.py",
        "square_sum(y, n * size + (tap * c + channel) * o, channels * o)",
        "square_sum(y, n * size + tap * c * o, channels * o)",
        ("tests/schedule/test_winograd.py::test_norms_are_of_every_part_of_the_inputs",),
        "a norm that leaves out a part of what is clipped by it (FastDP, groups)",
    ),
    Bug(
        "a bias's norm from its positions",
        f"{P}/bias.py",
        _BIAS,
        _BIAS_OF_POSITIONS,
        (f"{T}/test_private_graph.py::test_the_step_agrees_with_the_oracle[1.0-tokens]",),
        "ghost norm of a bias wrong for sequences (Opacus 751)",
    ),
    Bug(
        "a shared weight has the norm of its last use",
        f"{P}/strategy.py",
        "kept = gradient(builder, site)\n        return Normed(norm(builder, kept), kept)",
        _LAST_USE_ONLY,
        (f"{T}/test_uses.py::test_uses_add_up",),
        "tied weights understate the norm (FastDP)",
    ),
    Bug(
        "a grouped convolution reads the first group's channels",
        f"{P}/conv2d.py",
        "channel = c if use.groups == 1 else tirx.floordiv(o, group_size) * in_channels + c",
        "channel = c",
        (f"{T}/test_convolutions.py::test_norms_and_sums_agree_with_the_oracle[Grouped-shape0]",),
        "the norm of a grouped convolution ignores groups (FastDP)",
    ),
    Bug(
        "the last layer is trained and not clipped",
        f"{P}/private_graph.py",
        "[n.norm for n in normed], mask,",
        "[*(n.norm for n in normed[:-1]), normed[0].norm], mask,",
        (f"{T}/test_private_graph.py::test_the_step_agrees_with_the_oracle[1.0-logistic]",),
        "an incomplete set of gradients: what is trained is not what is clipped (Opacus 820, LoRA)",
    ),
    Bug(
        "frozen parameters are trained, and not clipped",
        "src/myelin/graph/training.py",
        "layers = tuple(layer for layer in every if not is_frozen(given[layer.name]))",
        "layers = every",
        (f"{T}/test_frozen.py::test_a_model_without_anything_to_train_is_refused",),
        "an incomplete set of gradients: what is trained is not what is clipped (Opacus 820, LoRA)",
    ),
    Bug(
        "constants are taken for the optimizer's state",
        "src/myelin/schedule/scheduler.py",
        "held = [*step.parameters[3 : 3 + count], *state]",
        "held = [*step.parameters[3:], *state]",
        (f"{T}/test_frozen.py::test_updates_and_averages_leave_constants_as_they_are",),
        "what is released is not what was trained",
    ),
    Bug(
        "a transposed convolution's norm is a plain one's",
        f"{P}/rules.py",
        '"conv2d_transpose": conv2d.TRANSPOSED,',
        '"conv2d_transpose": conv2d.RULE,',
        (f"{T}/test_convolutions.py::test_norms_and_sums_agree_with_the_oracle[Transposed-shape1]",),
        "the gradient of a transposed convolution with input and output not exchanged",
    ),
    Bug(
        "dilation is left out of a kernel's gradient",
        f"{P}/conv2d.py",
        "columns * stride_x + v * across - left",
        "columns * stride_x + v - left",
        (f"{T}/test_convolutions.py::test_norms_and_sums_agree_with_the_oracle[Grouped-shape0]",),
        "the norm of a convolution ignores dilation",
    ),
    Bug(
        "a layer without a rule is trained without clipping",
        f"{P}/rules.py",
        "rule = RULES.get(site.layer.kind)",
        'rule = RULES.get(site.layer.kind, RULES["linear"])',
        (f"{T}/test_rules.py::test_a_kind_without_a_rule_is_refused_by_name",),
        "unknown layers pass in silence (Opacus 433, JAX-Privacy: batch normalisation, mixtures of experts)",
    ),
    Bug(
        "an ignored class is trained on",
        "src/myelin/graph/loss.py",
        "return selected(label[i] == loss.ignore_index, _f(0.0), gradient)",
        "return gradient",
        ("tests/schedule/test_losses.py::test_a_step_of_each_loss_equals_the_oracle[ignoring]",),
        "a label that stands for nothing enters the sum (Opacus 792: ignore_index)",
    ),
    Bug(
        "a sum over the batch is let in",
        "src/myelin/graph/reader.py",
        "if value.attrs.axis is None or any(int(axis) % rank == 0 for axis in value.attrs.axis):",
        "if value.attrs.axis is None:",
        ("tests/graph/test_layers.py::test_what_has_no_rule_is_refused_by_name",),
        "batch normalisation in a private step (JAX-Privacy through vmap)",
    ),
    Bug(
        "the image's grid is of the clipping norm",
        "src/myelin/image/plan.py",
        "float(grid(plan.noise_multiplier_e9, sensitivity_e9))",
        "float(grid(plan.noise_multiplier_e9, plan.clipping_norm_e9))",
        ("tests/image/test_encode_plan.py::test_noise_on_the_grid_is_at_least_what_is_promised",),
        "noise for another sensitivity than the accountant's (jax_privacy 234)",
    ),
)
