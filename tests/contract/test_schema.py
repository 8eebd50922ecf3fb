"""Schemas: what the model sees, what is refused, and one digest for one meaning."""

import pytest

from myelin.contract import DataSchema
from myelin.errors import InputError

TABLE = """
[label]
column = "y"
classes = ["a", "b"]
[[columns]]
name = "x0"
lower = 0
upper = 10
[[columns]]
name = "x1"
lower = -1
upper = 3
"""


def load(tmp_path, text):
    (tmp_path / "schema.toml").write_text(text)
    return DataSchema.load(tmp_path / "schema.toml")


def test_tokens_reach_the_model_as_they_are(tmp_path):
    text = 'normalize = "none"\nshape = [64]\nlower = 0\nupper = 8191\n[label]\nclasses = ["a", "b"]\n'
    schema = load(tmp_path, text)
    assert (schema.scale, schema.offset) == ((1.0,), (0.0,))


@pytest.mark.parametrize(("normalize", "low", "high"), [("symmetric", -1, 1), ("unit", 0, 1)])
def test_range_becomes_the_models_range(tmp_path, normalize, low, high):
    schema = load(tmp_path, f'normalize = "{normalize}"\n' + TABLE)
    for lower, upper, scale, offset in zip(
        schema.lower_bounds, schema.upper_bounds, schema.scale, schema.offset, strict=True
    ):
        assert lower * scale + offset == pytest.approx(low)
        assert upper * scale + offset == pytest.approx(high)
    assert (schema.shape, schema.feature_count, schema.class_count, schema.record_bytes) == ((2,), 2, 2, 12)


def test_digest_is_of_the_meaning(tmp_path):
    schema = load(tmp_path, TABLE)
    assert load(tmp_path, "# a comment\nversion = 1\n" + TABLE).digest == schema.digest
    assert load(tmp_path, TABLE.replace("10", "10.0")).digest == schema.digest
    assert load(tmp_path, TABLE.replace("10", "11")).digest != schema.digest
    assert load(tmp_path, TABLE.replace('["a", "b"]', '["b", "a"]')).digest != schema.digest
    import cbor2

    assert DataSchema.from_mapping(cbor2.loads(schema.to_cbor())) == schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("upper = 10", "upper = 0"), "lower < upper"),
        (("upper = 10", "upper = nan"), "columns.0.upper"),
        (("upper = 10", "upper = 1e39"), "does not fit in float32"),
        (('name = "x1"', 'name = "x0"'), "'x0' is named twice"),
        (('name = "x1"', 'name = "y"'), "'y' is named twice"),
        (('classes = ["a", "b"]', 'classes = ["a", "a"]'), "'a' is named twice"),
        (('classes = ["a", "b"]', 'classes = ["a"]'), "label.classes"),
        (("[label]", "colour = 1\n[label]"), "colour: Extra inputs"),
        (("[label]", "version = 2\n[label]"), "version"),
        (("[label]", "shape = [3]\n[label]"), "does not fit 2 columns"),
        (("[label]", "lower = 0\n[label]"), "a range for each column"),
        (("[label]", 'dtype = "uint8"\n[label]'), "0 to 255, got -1"),
        (("[label]", 'dtype = "float64"\n[label]'), "dtype"),
        (("[label]", "[label"), "expected TOML"),
    ],
)
def test_schemas_that_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, TABLE.replace(*change))


def test_array_schemas(tmp_path):
    text = 'dtype = "uint8"\nshape = [1, 28, 28]\nlower = 0\nupper = 255\nnormalize = "unit"\n[label]\n'
    schema = load(tmp_path, text + 'classes = ["0", "1"]')
    assert (schema.feature_count, schema.record_bytes) == (784, 788)
    assert schema.scale == (1 / 255,)
    for gone in ("shape = [1, 28, 28]\n", "lower = 0\n", "upper = 255\n"):
        with pytest.raises(InputError, match="give either columns, or shape"):
            load(tmp_path, text.replace(gone, "") + 'classes = ["0", "1"]')
    with pytest.raises(InputError, match="features"):
        load(tmp_path, text.replace("[1, 28, 28]", "[16777216, 2]") + 'classes = ["0", "1"]')
    with pytest.raises(InputError, match="cannot be read"):
        DataSchema.load(tmp_path / "none.toml")


NUMBER = TABLE.replace('classes = ["a", "b"]', "lower = -3\nupper = 17")


@pytest.mark.parametrize(
    ("normalize", "low", "high"), [("symmetric", -1, 1), ("unit", 0, 1), ("none", -3, 17)]
)
def test_a_label_may_be_a_number(tmp_path, normalize, low, high):
    schema = load(tmp_path, NUMBER.replace("upper = 17", f'upper = 17\nnormalize = "{normalize}"'))
    label = schema.label
    assert (label.lower * label.scale + label.offset, label.upper * label.scale + label.offset) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    assert (schema.class_count, schema.record_bytes, schema.record_dtype["label"].str) == (0, 12, "<f4")
    assert schema.digest != load(tmp_path, TABLE).digest
    import cbor2

    assert DataSchema.from_mapping(cbor2.loads(schema.to_cbor())) == schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lower = -3", "lower = 17"), "lower < upper"),
        (("upper = 17", ""), "label.upper: Field required"),
        (("upper = 17", "upper = inf"), "label.upper"),
        (("upper = 17", "upper = 1e39"), "does not fit in float32"),
        (("upper = 17", 'upper = 17\nclasses = ["a", "b"]'), "label.lower: Extra inputs"),
    ],
)
def test_numbers_that_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, NUMBER.replace(*change, 1))
