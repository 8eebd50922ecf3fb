"""Bugs in augmented views: of the step that clips their mean, and of what draws them."""

from __future__ import annotations

from bug import Bug

P = "src/myelin/privacy"
T = "tests/privacy/test_view_gradients.py"
MEAN = (f"{T}::test_a_records_gradient_is_the_mean_of_its_views_and_is_clipped_as_one[flat]",)
DRAWN = ("enclave/engine::every_record_has_its_own_views_of_every_step",)

_EACH_CLIPPED = """        each = rule.example_gradient(builder, site)
        axes = list(range(1, len(shape_of(each))))
        norm = relax.op.sqrt(relax.op.sum(relax.op.multiply(each, each), axis=axes, keepdims=True))
        one = relax.const(1.0, "float32")
        short = relax.op.minimum(relax.op.divide(relax.const(0.05, "float32"), norm), one)
        clipped = builder.emit(relax.op.multiply(each, builder.emit(short)))
        whole = builder.emit(relax.op.sum(clipped, axis=[0]))
"""

_KEPT = "return kept_strategy(lambda site: site.batch * rule.batch_cost(site).flops, gradient, kept_norm)"

_LAST_ONLY = """own = {}

    def last(builder, site):
        each = builder.emit(relax.op.split(rule.example_gradient(builder, site), site.batch, 0))
        own["last"] = builder.emit(relax.TupleGetItem(each, site.batch - 1))
        return gradient(builder, site)

    return kept_strategy(lambda site: 1, last, lambda builder, kept: kept_norm(builder, own["last"]))"""

_MOVED = """                if distance as u32 != black_box(down) {
                    continue;
                }
                let kept = u32::MAX;
"""

VIEWS = (
    Bug(
        "a record's gradient is the sum of its views'",
        "src/myelin/graph/loss.py",
        'share = relax.const(1.0 / views, "float32")',
        'share = relax.const(1.0, "float32")',
        MEAN,
        "a divisor forgotten: the loss is summed over augmentations",
    ),
    Bug(
        "each view is clipped and not the record",
        f"{P}/views.py",
        "        whole = rule.batch_gradient(builder, site)\n",
        _EACH_CLIPPED,
        MEAN,
        "clipping before averaging: biased, and not what De et al. do",
    ),
    Bug(
        "a record's norm is its last view's",
        f"{P}/views.py",
        _KEPT,
        _LAST_ONLY,
        (
            *MEAN,
            f"{T}::test_a_record_adds_at_most_the_clipping_norm_and_nothing_with_one_view_that_is_not_finite",
        ),
        "a norm over part of what is added: the sensitivity is exceeded",
    ),
    Bug(
        "all views of a record are the same",
        "enclave/engine/src/views.rs",
        "augment.apply(record, view, &self.augmentations",
        "augment.apply(record, view * 0, &self.augmentations",
        DRAWN,
        "one augmentation for all views: the mean is over nothing",
    ),
    Bug(
        "views do not depend on the step",
        "enclave/engine/src/views.rs",
        "let mut augment = Augment::new(key, step);",
        "let mut augment = Augment::new(key, step.min(1));",
        DRAWN,
        "randomness keyed the same across steps (jax 3646)",
    ),
    Bug(
        "a record's views are its slot's",
        "enclave/engine/src/views.rs",
        "for (of_record, &record) in features.chunks_mut(width * plan.dp.views).zip(drawn) {",
        "for (of_record, record) in features.chunks_mut(width * plan.dp.views).zip(0..) {",
        DRAWN,
        "a record moves the others' gradients: who is beside it decides their randomness",
    ),
    Bug(
        "views and masks share a key",
        "enclave/seal/src/derive.rs",
        "augment: hkdf(job_key, transcript, AUGMENT_LABEL)?,",
        "augment: hkdf(job_key, transcript, DROPOUT_LABEL)?,",
        ("enclave/seal::run_keys_depend_on_everything",),
        "one key for two purposes (jax 3646)",
    ),
    Bug(
        "an image is moved by an address",
        "enclave/mechanism/src/augment.rs",
        "                let kept = ones_if_equal(distance as u32, down);\n",
        _MOVED,
        ("tests/privacy/test_constant_time.py::test_no_key_changes_the_trace",),
        "time or addresses tell how an image was moved, and so whose it is",
    ),
    Bug(
        "views of several records are a physical batch",
        "enclave/plan/src/views.rs",
        "if dp.views > 1 && dp.microbatch != 1 {",
        "if dp.views > 1 && dp.microbatch == 0 {",
        ("enclave/plan::every_wrong_plan_is_refused_by_its_field",),
        "a clipped sum over records that are taken for one",
    ),
    Bug(
        "the event may say another number of views",
        "enclave/wire/src/event.rs",
        '            ("views", self.views, other.views),\n',
        "",
        ("enclave/job::the_contract_means_this_image_and_this_plan",),
        "what is signed is not what runs",
    ),
)
