"""What one record of a dataset is: the public ranges and classes that an owner's data must keep to.

The ranges and class names are part of what every party signs, so they must be public knowledge (a unit's
range, a sensor's range), never computed from the private data.
"""

from __future__ import annotations

import math
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from myelin.errors import InputError
from myelin.wire import digest, encode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Column", "DataSchema", "Label", "NumericLabel"]

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_MOST_FEATURES = 1 << 24
_FLOAT32_LARGEST = float(np.finfo(np.float32).max)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Column(_Strict):
    """One numeric column of a table, with its public range (inclusive, in the column's own unit)."""

    name: _Name
    lower: float
    upper: float


class Label(_Strict):
    """The class of a record: the column (or array) that holds it and the names of the classes, in order.

    A CSV cell holds a class name. An array holds the class's index, 0 to ``len(classes) - 1``.
    """

    column: _Name = "label"
    classes: Annotated[tuple[_Name, ...], Field(min_length=2, max_length=65536)]


class NumericLabel(_Strict):
    """The number that a model is to predict of a record: the column (or array) that holds it, and its public
    range (inclusive, in the column's own unit), which must not come from the data.

    The loss sees ``raw × scale + offset``, which maps ``[lower, upper]`` to ``[-1, 1]`` (``symmetric``) or to
    ``[0, 1]`` (``unit``); with ``none`` it is the raw value. A trained model predicts in the same range: its
    output z stands for the raw value ``(z − offset) / scale``.
    """

    column: _Name = "label"
    lower: float
    upper: float
    normalize: Literal["symmetric", "unit", "none"] = "symmetric"

    @property
    def scale(self) -> float:
        """What the loss sees is ``raw × scale + offset``."""
        return _scale(self.normalize, self.lower, self.upper)

    @property
    def offset(self) -> float:
        """See :attr:`scale`."""
        return _offset(self.normalize, self.lower, self.upper)


def _kind_of_label(value: Any) -> str:
    """Which of the two a map is: a label with a range and no classes is a number."""
    if isinstance(value, dict):
        return "number" if "classes" not in value and {"lower", "upper"} & set(value) else "class"
    return "number" if isinstance(value, NumericLabel) else "class"


_AnyLabel = Annotated[
    Annotated[Label, Tag("class")] | Annotated[NumericLabel, Tag("number")], Discriminator(_kind_of_label)
]


def _scale(normalize: str, lower: float, upper: float) -> float:
    if normalize == "none":
        return 1.0
    return (2.0 if normalize == "symmetric" else 1.0) / (upper - lower)


def _offset(normalize: str, lower: float, upper: float) -> float:
    if normalize == "none":
        return 0.0
    return 0.0 - (upper + lower if normalize == "symmetric" else lower) / (upper - lower)


class DataSchema(_Strict):
    """The form of a dataset's records, read from ``schema.toml``.

    Either ``columns`` (a table: one feature a column, each with its range) or ``shape`` with one ``lower``
    and ``upper`` for all (images and other arrays). ``dtype`` is how a feature is stored: ``float32`` or
    ``uint8``. The model sees ``raw × scale + offset``, which maps ``[lower, upper]`` to ``[-1, 1]``
    (``symmetric``) or to ``[0, 1]`` (``unit``); with ``none`` it is the raw value, as tokens need it: whole
    numbers, which an embedding takes. ``features`` names the array in an ``.npz``; ``ignore`` lists
    columns of one owner's CSV file that are there but not used (it is not part of the digest). ``label`` has
    either ``classes`` or a range.
    """

    version: Literal[1] = 1
    dtype: Literal["float32", "uint8"] = "float32"
    normalize: Literal["symmetric", "unit", "none"] = "symmetric"
    columns: tuple[Column, ...] | None = None
    shape: tuple[Annotated[int, Field(ge=1, le=_MOST_FEATURES)], ...] = ()
    lower: float | None = None
    upper: float | None = None
    label: _AnyLabel
    features: _Name = "features"
    ignore: tuple[_Name, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _shape_of_table(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("columns") is not None and not values.get("shape"):
            return {**values, "shape": (len(values["columns"]),)}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DataSchema:
        if self.columns is not None:
            if self.lower is not None or self.upper is not None:
                raise ValueError("a table has a range for each column, not one lower and upper for all")
            if self.shape != (len(self.columns),):
                raise ValueError(f"shape {list(self.shape)} does not fit {len(self.columns)} columns")
        elif self.lower is None or self.upper is None or not self.shape:
            raise ValueError("give either columns, or shape with lower and upper")
        if not 1 <= math.prod(self.shape) <= _MOST_FEATURES:
            raise ValueError(f"a record has 1 to {_MOST_FEATURES} features")
        names = [column.name for column in self.columns or ()] + [self.label.column, *self.ignore]
        for group, what in ((names, "column"), (list(self.classes), "class")):
            twice = {name for name in group if group.count(name) > 1}
            if twice:
                raise ValueError(f"{what} {sorted(twice)[0]!r} is named twice")
        for lower, upper in zip(self.lower_bounds, self.upper_bounds, strict=True):
            _check_range(lower, upper)
            self._check_bytes(lower, upper)
        if isinstance(self.label, NumericLabel):
            _check_range(self.label.lower, self.label.upper)
        return self

    def _check_bytes(self, lower: float, upper: float) -> None:
        if self.dtype == "uint8" and not (lower >= 0 and upper <= 255):
            raise ValueError(f"a uint8 feature lies in 0 to 255, got {lower} to {upper}")

    @classmethod
    def load(cls, path: str | Path) -> DataSchema:
        """Read ``schema.toml``; :class:`~myelin.errors.InputError` names the field that is wrong."""
        path = Path(path)
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: expected TOML, got: {error}") from None
        except ValidationError as error:
            raise InputError(f"{path}: {_first_of(error)}") from None

    @property
    def feature_count(self) -> int:
        """Features of one record."""
        return math.prod(self.shape)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the label's classes; none where it is a number."""
        return self.label.classes if isinstance(self.label, Label) else ()

    @property
    def class_count(self) -> int:
        """Classes of the label; 0 where it is a number."""
        return len(self.classes)

    @cached_property
    def record_dtype(self) -> np.dtype[np.void]:
        """One stored record: features, row-major, then the label as little-endian int32, or float32 where it
        is a number; nothing between."""
        feature = "<f4" if self.dtype == "float32" else "u1"
        label = "<f4" if isinstance(self.label, NumericLabel) else "<i4"
        return np.dtype([("features", feature, (self.feature_count,)), ("label", label)])

    @property
    def record_bytes(self) -> int:
        """Bytes of one stored record."""
        return self.record_dtype.itemsize

    @property
    def lower_bounds(self) -> tuple[float, ...]:
        """Least raw values: one, or one a feature."""
        return tuple(c.lower for c in self.columns) if self.columns else (float(self.lower or 0.0),)

    @property
    def upper_bounds(self) -> tuple[float, ...]:
        """Greatest raw values: one, or one a feature."""
        return tuple(c.upper for c in self.columns) if self.columns else (float(self.upper or 0.0),)

    @property
    def scale(self) -> tuple[float, ...]:
        """What the model sees is ``raw × scale + offset``: one, or one a feature."""
        bounds = zip(self.lower_bounds, self.upper_bounds, strict=True)
        return tuple(_scale(self.normalize, lower, upper) for lower, upper in bounds)

    @property
    def offset(self) -> tuple[float, ...]:
        """See :attr:`scale`."""
        bounds = zip(self.lower_bounds, self.upper_bounds, strict=True)
        return tuple(_offset(self.normalize, lower, upper) for lower, upper in bounds)

    def to_cbor(self) -> bytes:
        """Deterministic CBOR of the schema (floats allowed, shortest); what :attr:`digest` is over."""
        return encode(self.model_dump(mode="json", exclude={"ignore"}), floats=True)

    @classmethod
    def from_mapping(cls, values: object) -> DataSchema:
        """Read the schema from the map that :meth:`to_cbor` encodes, as an image's manifest carries it."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"schema: {_first_of(error)}") from None

    @property
    def digest(self) -> bytes:
        """Schema digest (32 bytes), which contract and dataset header carry."""
        return digest(self.to_cbor())


def _check_range(lower: float, upper: float) -> None:
    if not lower < upper:
        raise ValueError(f"expected lower < upper, got lower = {lower} and upper = {upper}")
    if max(abs(lower), abs(upper)) > _FLOAT32_LARGEST:
        raise ValueError(f"the range {lower} to {upper} does not fit in float32")


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    place = list(first["loc"])
    if place[0:1] == ["label"]:
        del place[1:2]  # which kind of label it was taken for
    where = ".".join(str(part) for part in place) or "schema"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
