"""Augmented views of records, as the enclave makes them. A NumPy reference, bit for bit.

A plan with augmentations shows the model *views* of a record instead of the record: each of them drawn anew
at every step. A record's gradient is that of the mean of its views' losses, and is clipped as one
(*augmentation multiplicity*, De et al. 2022, arXiv:2204.13650).

A view is a function of the record, the augmentation key (docs/protocol.md, section 8), the step, the record's
index and the view's number, and of nothing else: not of the slot that the record has, the records beside it,
the microbatch, lanes or threads.

*Guarantee*: views change no sensitivity. Their draws come from a key of their own, so independently of the
sample, the noise and all data; given them, a record's gradient is a function of that record and the
parameters alone, and what is clipped is the mean over its views: it adds a vector of at most the clipping
norm, however many views there are (:func:`myelin.privacy.make_private`). Two neighbouring datasets have the
same draws for the records that they share, so the mechanism is a mixture, over draws that do not depend on
data, of mechanisms of the same guarantee, which has it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .keystream import groups

__all__ = [
    "MOST_AUGMENTATIONS",
    "MOST_VIEWS",
    "Augmentation",
    "ExecutedViews",
    "RandomCrop",
    "RandomFlip",
    "augmentation_of",
    "check_views",
    "draw_views",
    "views_from_seed",
]

MOST_VIEWS: Final = 1024
"""Most views of a record at a step."""

MOST_AUGMENTATIONS: Final = 8
"""Most augmentations that follow each other."""

MOST_PADDING: Final = 255
"""Most pixels that a crop moves an image by."""

ExecutedViews: TypeAlias = tuple[tuple[str | int, ...], ...]
"""Augmentations as plan and event carry them, in order: each its name, then its numbers."""

_EDGES: Final[Mapping[str, str]] = {"zero": "crop", "reflect": "reflected-crop"}


def _check_image(name: str, shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise InputError(
            f"{name}: expected images, a schema of shape (channels, height, width), got shape "
            f"{tuple(shape)}. Leave it out of DpPlan.augment."
        )


@dataclass(frozen=True)
class RandomFlip:
    """An image (channels, height, width) is mirrored left to right, or is not, with the same probability."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuse records that are no images.

        Raises:
            InputError: their shape is not (channels, height, width).
        """
        _check_image("RandomFlip", shape)

    def executed(self) -> tuple[str | int, ...]:
        """As plan and event carry it."""
        return ("flip",)

    def apply(self, words: npt.NDArray[np.uint32], image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The image ``[channels, height, width]`` after the draw that two words make."""
        return image[:, :, ::-1] if words[0] < 2**31 else image


@dataclass(frozen=True)
class RandomCrop:
    """An image (channels, height, width) is moved by up to ``padding`` pixels down or up, and right or left.

    Every distance has the same probability, to within 2^-32. It is what cutting the image's size out of the
    padded image does.

    Args:
        padding: most pixels, 1 to 255, and less than the image's height and width.
        edge: what is seen beyond the border: ``"zero"``, as the model sees numbers (a schema's scale and
            offset are applied before), or ``"reflect"``, the image mirrored about its outermost pixels.
    """

    padding: int
    edge: str = "zero"

    def __post_init__(self) -> None:
        """Check both."""
        padding = self.padding
        if isinstance(padding, bool) or not isinstance(padding, int) or not 1 <= padding <= MOST_PADDING:
            raise InputError(
                f"RandomCrop.padding: expected 1 to {MOST_PADDING} pixels, got {padding!r}. "
                "An eighth of the image's width is usual."
            )
        if self.edge not in _EDGES:
            raise InputError(f"RandomCrop.edge: expected 'zero' or 'reflect', got {self.edge!r}.")

    def check(self, shape: Sequence[int]) -> None:
        """Refuse records that are no images, or not larger than the padding.

        Raises:
            InputError: their shape is not (channels, height, width), or not large enough.
        """
        _check_image("RandomCrop", shape)
        if self.padding >= min(shape[1:]):
            raise InputError(
                f"RandomCrop.padding: expected less than the image's height and width, {shape[1]} and "
                f"{shape[2]}, got {self.padding}. Give a smaller one."
            )

    def executed(self) -> tuple[str | int, ...]:
        """As plan and event carry it."""
        return (_EDGES[self.edge], self.padding)

    def apply(self, words: npt.NDArray[np.uint32], image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The image ``[channels, height, width]`` after the draw that two words make."""
        for axis, word in ((1, words[0]), (2, words[1])):
            size = image.shape[axis]
            source = np.arange(size) + ((int(word) * (2 * self.padding + 1)) >> 32) - self.padding
            inside = (source >= 0) & (source < size)
            mirrored = np.where(source < 0, -source, 2 * (size - 1) - source)
            image = np.take(image, np.where(inside, source, mirrored), axis)
            if self.edge == "zero":
                kept = inside[:, None] if axis == 1 else inside
                image = np.where(kept, image, np.float32(0))
        return image


Augmentation: TypeAlias = RandomFlip | RandomCrop


def augmentation_of(executed: Sequence[Any]) -> Augmentation:
    """The augmentation that plan or event carries.

    Raises:
        InputError: a name that is not known, or not its numbers.
    """
    known = isinstance(executed, list | tuple) and len(executed) > 0 and isinstance(executed[0], str)
    name, *numbers = executed if known else ("",)
    if name == "flip" and not numbers:
        return RandomFlip()
    edges = {value: key for key, value in _EDGES.items()}
    if name in edges and len(numbers) == 1:
        return RandomCrop(numbers[0], edges[str(name)])
    raise InputError(
        f"augment: expected ['flip'], ['crop', padding] or ['reflected-crop', padding], got "
        f"{repr(executed)[:80]}."
    )


def check_views(views: Any, executed: Any) -> ExecutedViews:
    """The augmentations that a plan or event carries, checked with the number of views.

    Raises:
        InputError: too many of either, one that is not known, or views that are all the same.
    """
    if isinstance(views, bool) or not isinstance(views, int) or not 1 <= views <= MOST_VIEWS:
        raise InputError(f"views: expected 1 to {MOST_VIEWS}, got {repr(views)[:80]}.")
    if not isinstance(executed, list | tuple) or len(executed) > MOST_AUGMENTATIONS:
        raise InputError(
            f"augment: expected at most {MOST_AUGMENTATIONS} augmentations, got {repr(executed)[:80]}."
        )
    if views > 1 and not executed:
        raise InputError("augment: expected an augmentation where a record has several views, got none.")
    return tuple(augmentation_of(one).executed() for one in executed)


def draw_views(
    key: bytes,
    step: int,
    records: Sequence[int] | npt.NDArray[np.uint32],
    features: npt.NDArray[np.float32],
    augment: Sequence[Augmentation],
    views: int,
) -> npt.NDArray[np.float32]:
    """The views of some records at a step: ``[records × views, …]``, each record's one after the other.

    View v has the words of group v of the record's stream, each augmentation two of them in turn. Without
    augmentations ``views`` is 1, and a record's only view is the record.

    Args:
        key: 32 bytes.
        step: 1 at the first.
        records: indices.
        features: of the records as the model sees them, float32 ``[records, …]``.
        augment: in the order in which they are applied.
        views: of each record.

    Raises:
        InputError: a key that is not 32 bytes.
    """
    if not augment:
        return features
    made = []
    for record, image in zip(records, features, strict=True):
        for words in groups(key, step, int(record), 0, views).reshape(views, -1, 2):
            view = image
            for augmentation, drawn in zip(augment, words, strict=False):
                view = augmentation.apply(drawn, view)
            made.append(view)
    return np.stack(made)


def views_from_seed(
    seed: int,
    records: Sequence[int],
    features: npt.NDArray[np.float32],
    augment: Sequence[Augmentation],
    views: int,
) -> npt.NDArray[np.float32]:
    """The views of step 1 under a key that everyone knows: for steps outside of an enclave.

    Raises:
        InputError: the seed is below 0 or does not fit in 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"augmentation seed: expected 0 to 2^64 - 1, got {seed}")
    return draw_views(seed.to_bytes(32, "little"), 1, records, features, augment, views)
