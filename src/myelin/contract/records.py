"""Reading an owner's data as records: CSV, ``.npz`` and IDX, checked cell by cell against the schema.

Every reader streams in bounded memory and raises :class:`~myelin.errors.InputError` with row, column, what
was expected and what was got at the first value that does not fit. Rows count from 1, without the header.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from myelin.contract.schema import DataSchema, NumericLabel
from myelin.errors import InputError

__all__ = ["Records", "read_records"]

Records = npt.NDArray[np.void]
"""A block of records, of :attr:`DataSchema.record_dtype`."""

_BLOCK_BYTES = 1 << 20
_MOST_RECORDS = 1 << 31
_MOST_LINE_CHARACTERS = 1 << 26
_MOST_HEADER_BYTES = 1 << 16
_UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a damaged or compressed file raises."""


def read_records(
    path: str | Path, schema: DataSchema, *, labels: str | Path | None = None
) -> Iterator[Records]:
    """Read the records of ``path`` in blocks, in order.

    A CSV file has a header; an ``.npz`` holds the arrays that the schema names; IDX files come as two,
    features in ``path`` and classes in ``labels``. CSV and IDX may be gzipped. The kind is told by content.
    """
    path = Path(path)
    start = _first_bytes(path)
    if start[:4] == b"PK\x03\x04":
        blocks = _read_npz(path, schema)
    elif start[:2] == b"\0\0" and len(start) >= 4:
        if labels is None:
            raise InputError(f"{path}: an IDX file holds features only; give the file of its labels too")
        blocks = _read_idx(path, Path(labels), schema)
    else:
        blocks = _read_csv(path, schema)
    total = 0
    for block in blocks:
        total += len(block)
        if total > _MOST_RECORDS:
            raise InputError(f"{path}: expected at most {_MOST_RECORDS} records, got more")
        yield block
    if total == 0:
        raise InputError(f"{path}: expected at least one record, got none")


def _open(path: Path) -> IO[bytes]:
    try:
        with open(path, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        return gzip.open(path, "rb") if gzipped else open(path, "rb")  # type: ignore[return-value]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _first_bytes(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read(4)
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _rows_per_block(schema: DataSchema) -> int:
    return max(1, _BLOCK_BYTES // schema.record_bytes)


# CSV


def _read_csv(path: Path, schema: DataSchema) -> Iterator[Records]:
    if schema.columns is None:
        raise InputError(
            f"{path}: a CSV file, but the schema has no columns; it describes arrays of shape "
            f"{list(schema.shape)}"
        )
    with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        reader = csv.reader(_lines(path, text), strict=True)
        try:
            yield from _csv_blocks(path, reader, schema)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {reader.line_num + 1}: expected UTF-8 text, got {error.reason}"
            ) from None
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num}: expected CSV, got: {error}") from None
        except _UNREADABLE as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    """Lines of bounded length: a few compressed kilobytes can be gigabytes of one line."""
    while line := text.readline(_MOST_LINE_CHARACTERS):
        if len(line) == _MOST_LINE_CHARACTERS:
            raise InputError(f"{path}: expected CSV, got a line of {len(line)} characters or more")
        yield line


def _csv_blocks(path: Path, reader: Any, schema: DataSchema) -> Iterator[Records]:
    header = next(reader, None)
    if not header:
        raise InputError(f"{path}: expected a header with the schema's columns, got an empty file")
    places, label_place = _column_places(path, [name.strip() for name in header], schema)
    parse = _RowParser(path, schema, places, label_place, len(header))
    size = _rows_per_block(schema)
    rows: list[tuple[list[float], float]] = []
    blank_at = 0
    for number, row in enumerate(reader, 1):
        if not row:
            blank_at = blank_at or number
            continue
        if blank_at:
            raise InputError(f"{path}: row {blank_at}: expected {len(header)} cells, got an empty line")
        rows.append(parse(number, row))
        if len(rows) == size:
            yield _pack(rows, schema)
            rows = []
    if rows:
        yield _pack(rows, schema)


def _column_places(path: Path, header: list[str], schema: DataSchema) -> tuple[list[int], int]:
    wanted = [column.name for column in schema.columns or ()]
    known = {*wanted, schema.label.column, *schema.ignore}
    for index, name in enumerate(header):
        if header.index(name) != index:
            raise InputError(
                f"{path}: column {name!r}: expected once, got it in columns {header.index(name) + 1} "
                f"and {index + 1}"
            )
        if name not in known:
            raise InputError(
                f"{path}: column {name[:60]!r}: the schema has no such column; expected {_some(known)}. "
                "List it under ignore in the schema if it is not used"
            )
    for name in (*wanted, schema.label.column):
        if name not in header:
            raise InputError(
                f"{path}: column {name!r}: expected by the schema, not in the header {_some(header)}"
            )
    return [header.index(name) for name in wanted], header.index(schema.label.column)


class _RowParser:
    """Turns the cells of one row into feature values and a class index, or a number."""

    def __init__(self, path: Path, schema: DataSchema, places: list[int], label: int, width: int) -> None:
        self.path, self.schema, self.label, self.width = path, schema, label, width
        self.columns = list(zip(places, schema.columns or (), strict=True))
        self.classes = {name: index for index, name in enumerate(schema.classes)}

    def __call__(self, number: int, row: list[str]) -> tuple[list[float], float]:
        if len(row) != self.width:
            raise InputError(f"{self.path}: row {number}: expected {self.width} cells, got {len(row)}")
        values = []
        for place, column in self.columns:
            value = _number(row[place])
            if (
                value is None
                or not column.lower <= value <= column.upper
                or (self.schema.dtype == "uint8" and value != int(value))
            ):
                whole = "a whole number" if self.schema.dtype == "uint8" else "a number"
                raise InputError(
                    f"{self.path}: row {number}, column {column.name!r}: expected {whole} from "
                    f"{column.lower:g} to {column.upper:g}, got {_shown(row[place])}"
                )
            values.append(value)
        return values, self._label(number, row[self.label])

    def _label(self, number: int, cell: str) -> float:
        label = self.schema.label
        if isinstance(label, NumericLabel):
            value = _number(cell)
            if value is not None and label.lower <= value <= label.upper:
                return value
            expected = f"a number from {label.lower:g} to {label.upper:g}"
        else:
            index = self.classes.get(cell.strip())
            if index is not None:
                return index
            expected = f"one of {_some(label.classes)}"
        raise InputError(
            f"{self.path}: row {number}, column {label.column!r}: expected {expected}, got {_shown(cell)}"
        )


def _number(cell: str) -> float | None:
    """A finite decimal number, or None; Python's own extras (``1_000``, ``infinity``) are none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _shown(cell: str) -> str:
    cell = cell.strip()
    return repr(cell[:40]) if cell else "an empty cell"


def _some(names: Any) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:12]) + (f" … ({len(listed)} in all)" if len(listed) > 12 else "")


def _pack(rows: list[tuple[list[float], float]], schema: DataSchema) -> Records:
    features = np.array([values for values, _ in rows], np.float64)
    return _records(features, np.array([label for _, label in rows], np.float64), schema)


def _records(features: npt.NDArray[Any], labels: npt.NDArray[Any], schema: DataSchema) -> Records:
    """Pack checked values."""
    block = np.zeros(len(labels), schema.record_dtype)
    if schema.dtype == "float32":
        block["features"] = _narrow(features, schema.lower_bounds, schema.upper_bounds)
    else:
        block["features"] = features.astype(np.uint8)
    label = schema.label
    block["label"] = (
        _narrow(labels, (label.lower,), (label.upper,)) if isinstance(label, NumericLabel) else labels
    )
    return block


def _narrow(
    values: npt.NDArray[Any], lower_bounds: Sequence[float], upper_bounds: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Round to float32, but never out of the range: the image would refuse that."""
    lower, upper = np.array(lower_bounds, np.float64), np.array(upper_bounds, np.float64)
    narrow = values.astype(np.float32)
    narrow = np.where(narrow.astype(np.float64) < lower, np.nextafter(narrow, np.float32(np.inf)), narrow)
    return np.where(narrow.astype(np.float64) > upper, np.nextafter(narrow, np.float32(-np.inf)), narrow)


# Arrays


def _read_npz(path: Path, schema: DataSchema) -> Iterator[Records]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in (schema.features, schema.label.column):
                if name not in names:
                    raise InputError(
                        f"{path}: array {name!r}: expected by the schema, got only {_some(names)}"
                    )
            with (
                archive.open(f"{schema.features}.npy") as features,
                archive.open(f"{schema.label.column}.npy") as labels,
            ):
                pair = (_npy(path, features, schema.features), _npy(path, labels, schema.label.column))
                yield from _array_blocks(path, *pair, schema)
    except (*_UNREADABLE, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: expected an .npz archive, got: {error}") from None


def _read_idx(path: Path, labels: Path, schema: DataSchema) -> Iterator[Records]:
    with _open(path) as feature_file, _open(labels) as label_file:
        try:
            pair = (_idx(path, feature_file), _idx(labels, label_file))
            yield from _array_blocks(path, *pair, schema)
        except _UNREADABLE as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


class _ArrayStream:
    """A C-ordered array in a file: ``rows`` takes its leading axis piece by piece."""

    def __init__(self, where: str, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        if dtype.kind not in "iufb" or not shape or any(size < 0 for size in shape):
            raise InputError(f"{where}: expected an array of numbers, got {dtype} of shape {list(shape)}")
        self.where, self.file, self.dtype, self.shape = where, file, dtype, shape

    def rows(self, count: int) -> npt.NDArray[Any]:
        row_shape = self.shape[1:]
        wanted = count * math.prod(row_shape) * self.dtype.itemsize
        parts = bytearray()
        while len(parts) < wanted:
            part = self.file.read(min(wanted - len(parts), _BLOCK_BYTES))
            if not part:
                raise InputError(
                    f"{self.where}: the file ends before the {self.shape[0]} rows that it announces"
                )
            parts += part
        return np.frombuffer(bytes(parts), self.dtype).reshape(count, *row_shape)


def _npy(path: Path, file: IO[bytes], name: str) -> _ArrayStream:
    where = f"{path}: array {name!r}"
    try:
        version = np.lib.format.read_magic(file)
        size_bytes, read = {
            (1, 0): (2, np.lib.format.read_array_header_1_0),
            (2, 0): (4, np.lib.format.read_array_header_2_0),
        }[version]
        # Read here, since NumPy reads as much as the file says before it compares.
        raw = file.read(size_bytes)
        length = int.from_bytes(raw, "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        shape, fortran_order, dtype = read(io.BytesIO(raw + file.read(length)))
    except (ValueError, KeyError) as error:
        raise InputError(f"{where}: expected a NumPy array, got: {error}") from None
    if fortran_order and len(shape) > 1:
        raise InputError(
            f"{where}: expected row-major order, got column-major; save it with numpy.ascontiguousarray"
        )
    return _ArrayStream(where, file, dtype, tuple(shape))


def _idx(path: Path, file: IO[bytes]) -> _ArrayStream:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in (0x08, 0x0D) or not 1 <= head[3] <= 8:
        raise InputError(f"{path}: expected an IDX file of bytes or float32, got a header of {head.hex(' ')}")
    raw = file.read(4 * head[3])
    if len(raw) < 4 * head[3]:
        raise InputError(f"{path}: the file ends within its header")
    shape = struct.unpack(f">{head[3]}I", raw)
    return _ArrayStream(str(path), file, np.dtype("u1" if head[2] == 0x08 else ">f4"), shape)


def _array_blocks(
    path: Path, features: _ArrayStream, labels: _ArrayStream, schema: DataSchema
) -> Iterator[Records]:
    squeezed = [size for size in features.shape[1:] if size != 1]
    if squeezed != [size for size in schema.shape if size != 1] and features.shape[1:] != (
        schema.feature_count,
    ):
        raise InputError(
            f"{features.where}: expected records of shape {list(schema.shape)}, got "
            f"{list(features.shape[1:])}"
        )
    if labels.shape != features.shape[:1]:
        raise InputError(
            f"{labels.where}: expected one label for each of {features.shape[0]} records, got shape "
            f"{list(labels.shape)}"
        )
    left = features.shape[0]
    done = 0
    while left:
        count = min(left, _rows_per_block(schema))
        block = features.rows(count).reshape(count, schema.feature_count)
        classes = labels.rows(count)
        _check_features(features.where, block, schema, done)
        _check_labels(labels.where, classes, schema, done)
        yield _records(block.astype(np.float64), classes.astype(np.float64), schema)
        left, done = left - count, done + count


def _check_features(where: str, block: npt.NDArray[Any], schema: DataSchema, done: int) -> None:
    values = block.astype(np.float64)
    good = (values >= np.array(schema.lower_bounds)) & (values <= np.array(schema.upper_bounds))
    if schema.dtype == "uint8":
        good &= values == np.floor(values)
    if good.all():
        return
    row, index = (int(i) for i in np.argwhere(~good)[0])
    lower, upper = (
        bounds[index if len(bounds) > 1 else 0] for bounds in (schema.lower_bounds, schema.upper_bounds)
    )
    column = (
        schema.columns[index].name
        if schema.columns
        else [int(i) for i in np.unravel_index(index, schema.shape)]
    )
    raise InputError(
        f"{where}: row {done + row + 1}, column {column!r}: expected "
        f"{'a whole number' if schema.dtype == 'uint8' else 'a number'} from {lower:g} to {upper:g}, "
        f"got {values[row, index]:g}"
    )


def _check_labels(where: str, classes: npt.NDArray[Any], schema: DataSchema, done: int) -> None:
    if isinstance(label := schema.label, NumericLabel):
        values = classes.astype(np.float64)
        good = (values >= label.lower) & (values <= label.upper)  # false for NaN
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(
                f"{where}: row {done + row + 1}, label: expected a number from {label.lower:g} to "
                f"{label.upper:g}, got {values[row]:g}"
            )
        return
    good = (classes >= 0) & (classes < schema.class_count) & (classes == np.floor(classes))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{where}: row {done + row + 1}, label: expected a class index from 0 to "
            f"{schema.class_count - 1}, got {classes[row]}"
        )
