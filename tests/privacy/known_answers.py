"""Known answers of sampler, noise, dropout and views, from the NumPy references.

``python tests/privacy/known_answers.py`` rewrites them.

The enclave's tests read the same file (``enclave/mechanism/tests/known_answers.rs``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from myelin.graph import Dropout
from myelin.privacy import RandomCrop, RandomFlip, augment, dropout, noise, sampling

FILE = Path(__file__).parents[2] / "enclave" / "mechanism" / "tests" / "known_answers.txt"
KEYS = (bytes(32), bytes(range(32)), hashlib.sha256(b"myelin known answers").digest())
HALF = 2**63


def _noise_lines() -> Iterator[str]:
    for key, step, first, count in (
        (KEYS[0], 0, 0, 40),
        (KEYS[1], 1, 0, 33),
        (KEYS[1], 2**40 + 3, 4090, 12),
        (KEYS[2], 2**64 - 1, 4096 * (2**32 - 1) + 4000, 96),
        (KEYS[2], 7, 26_000, 17),
        # A draw each, 13,508 and 1,771,443, comes from the reserve.
        (KEYS[1], 1, 13_500, 12),
        (KEYS[1], 1, 1_771_440, 5),
    ):
        drawn = " ".join(str(z) for z in noise.fill(key, step, first, count))
        yield f"noise {key.hex()} {step} {first} : {drawn}"


def _sample_lines() -> Iterator[str]:
    for key, step, records, threshold, capacity in (
        (KEYS[0], 0, 200, HALF // 4, 40),
        (KEYS[1], 5, 455, (64 << 64) // 455, 128),
        (KEYS[1], 6, 455, (64 << 64) // 455, 60),
        (KEYS[2], 2**63, 3000, (40 << 64) // 3000, 48),
        (KEYS[2], 9, 1000, 2**64 - 1, 16),
        (KEYS[2], 10, 129, HALF, 1),
        (KEYS[0], 11, 60_000, (20 << 64) // 60_000, 24),
    ):
        slots, count = sampling.draw(key, step, records, threshold, capacity)
        yield f"sample {key.hex()} {step} {records} {threshold} {count} : {' '.join(map(str, slots))}"


def _mask_lines() -> Iterator[str]:
    for key, step, record, threshold, before, count in (
        (KEYS[0], 0, 0, 3 << 30, 0, 40),
        (KEYS[1], 9, 2**32 - 1, 1 << 31, 300, 260),
        (KEYS[2], 2**40 + 3, 1234, 2**32 - 1, 256, 20),
        (KEYS[2], 7, 54_321, 1, 1, 20),
        (KEYS[2], 7, 54_321, 4_080_218_931, 70_000, 33),
    ):
        layers = [Dropout((before,), 1), Dropout((count,), threshold)]
        bits = dropout.draw_masks(key, step, [record], layers)[1].view("u4").ravel()
        groups = -(-before // 256)
        yield f"mask {key.hex()} {step} {record} {groups} {threshold} : {' '.join(map(str, bits))}"


def _view_lines() -> Iterator[str]:
    for key, step, record, view, shape, made in (
        (KEYS[0], 0, 0, 0, (1, 3, 4), (RandomFlip(),)),
        (KEYS[1], 9, 2**32 - 1, 3, (2, 5, 4), (RandomCrop(3), RandomFlip())),
        (KEYS[2], 2**40 + 3, 1234, 1023, (1, 7, 5), (RandomCrop(4, "reflect"),)),
        (KEYS[2], 7, 54_321, 2, (3, 4, 6), (RandomFlip(), RandomCrop(2), RandomCrop(1, "reflect"))),
    ):
        image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)
        seen = augment.draw_views(key, step, [record], image, made, view + 1)[view]
        words = " ".join(",".join(map(str, one.executed())) for one in made)
        size, pixels = " ".join(map(str, shape)), " ".join(str(int(p)) for p in seen.ravel())
        yield f"view {key.hex()} {step} {record} {view} {size} {words} : {pixels}"


def lines() -> list[str]:
    """Every line of the file."""
    head = "# Written by tests/privacy/known_answers.py from NumPy references; both sides are tested."
    return [
        head,
        "# noise KEY STEP FIRST_COORDINATE : DRAWS",
        *_noise_lines(),
        "# sample KEY STEP RECORDS THRESHOLD COUNT : SLOTS",
        *_sample_lines(),
        "# mask KEY STEP RECORD FIRST_GROUP THRESHOLD : BITS OF FLOAT32",
        *_mask_lines(),
        "# view KEY STEP RECORD VIEW PLANES HEIGHT WIDTH AUGMENTATIONS : PIXELS, of an image of 1, 2, 3, …",
        *_view_lines(),
    ]


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n")
