"""Bad input: row, column, what was expected and what was got; good input: exactly the records, in order."""

import gzip
import struct
import zipfile

import numpy as np
import pytest

from myelin.contract import Budget, DataSchema, Identity, Ledger, Store, open_dataset, read_records, seal
from myelin.errors import InputError, ProtocolError
from reference_enclave import NOW_S, records, schema

GOOD = "x0,x1,x2,y\n0.5,-1,1e-3,a\n0,0,0,b\n"


def load(path, given=None, **options):
    return np.concatenate(list(read_records(path, given or schema(), **options)))


def csv_file(tmp_path, text, name="d.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_by_name_not_by_place(tmp_path):
    shuffled = "y,x2,x0,x1\na,1e-3,0.5,-1\nb,0,0,0\n\n\n"
    first, second = (load(csv_file(tmp_path, text, f"{n}.csv")) for n, text in enumerate((GOOD, shuffled)))
    assert first.tobytes() == second.tobytes()
    assert first["label"].tolist() == [0, 1]
    assert first["features"].tolist() == [[0.5, -1.0, pytest.approx(1e-3)], [0, 0, 0]]
    assert schema().record_bytes == 16 == first.dtype.itemsize


def test_csv_variants(tmp_path):
    expected = load(csv_file(tmp_path, GOOD)).tobytes()
    for n, text in enumerate(
        [
            "\ufeff" + GOOD,
            GOOD.replace("\n", "\r\n"),
            GOOD.replace("0.5", ' "0.5" ').replace(' "0.5" ', '"0.5"'),
            GOOD.replace(",a", ", a ").replace("x1", " x1 "),
            gzip.compress(GOOD.encode()),
        ]
    ):
        assert load(csv_file(tmp_path, text, f"v{n}.csv")).tobytes() == expected


ROWS = [
    ("0.5,,0,a", r"row 3, column 'x1': expected a number from -1 to 1, got an empty cell"),
    ("0.5,abc,0,a", r"row 3, column 'x1': expected a number from -1 to 1, got 'abc'"),
    ('0.5,"0,5",0,a', r"row 3, column 'x1': expected a number from -1 to 1, got '0,5'"),
    ("0.5,1_0,0,a", r"row 3, column 'x1': expected a number .* got '1_0'"),
    ("0.5,nan,0,a", r"row 3, column 'x1': expected a number .* got 'nan'"),
    ("0.5,inf,0,a", r"row 3, column 'x1': expected a number .* got 'inf'"),
    ("0.5,-Infinity,0,a", r"row 3, column 'x1': expected a number .* got '-Infinity'"),
    ("0.5,1e999,0,a", r"row 3, column 'x1': expected a number .* got '1e999'"),
    ("0.5,1.001,0,a", r"row 3, column 'x1': expected a number from -1 to 1, got '1.001'"),
    ("0.5,0,0,c", r"row 3, column 'y': expected one of 'a', 'b', got 'c'"),
    ("0.5,0,0,", r"row 3, column 'y': expected one of 'a', 'b', got an empty cell"),
    ("0.5,0,0", r"row 3: expected 4 cells, got 3"),
    ("0.5,0,0,a,9", r"row 3: expected 4 cells, got 5"),
    ("\n0.5,0,0,a", r"row 3: expected 4 cells, got an empty line"),
]
FILES = [
    ("", "expected a header .* got an empty file"),
    ("x0,x1,x2,y\n", "expected at least one record, got none"),
    ("x0,x1,y\n0,0,a\n", "column 'x2': expected by the schema, not in the header"),
    ("x0,x1,x2\n0,0,0\n", "column 'y': expected by the schema, not in the header"),
    ("x0,x1,x2,y,age\n0,0,0,a,9\n", "column 'age': the schema has no such column"),
    ("x0,x1,x2,x1,y\n0,0,0,0,a\n", "column 'x1': expected once, got it in columns 2 and 4"),
    (b"x0,x1,x2,y\n0,0,0,\xff\n", "expected UTF-8 text"),
    ('x0,x1,x2,y\n0,0,0,"a\n', "expected CSV"),
    (gzip.compress(GOOD.encode(), mtime=0)[:-9], "cannot be read"),
]


@pytest.mark.parametrize(("row", "message"), ROWS)
def test_bad_rows(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        load(csv_file(tmp_path, GOOD + row + "\n"))


@pytest.mark.parametrize(("content", "message"), FILES)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load(csv_file(tmp_path, content))


def test_damaged_compression(tmp_path):
    content = bytearray(gzip.compress(np.random.default_rng(1).bytes(9000).hex().encode()))
    content[40:42] = bytes(b ^ 0xFF for b in content[40:42])
    with pytest.raises(InputError):
        load(csv_file(tmp_path, bytes(content)))


def test_few_bytes_do_not_become_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("myelin.contract.records._MOST_LINE_CHARACTERS", 1 << 16)
    bomb = csv_file(tmp_path, gzip.compress(b"0," * (1 << 20)))
    with pytest.raises(InputError, match="a line of 65536 characters or more"):
        load(bomb)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 22) + bytes(1 << 22))
        archive.writestr("y.npy", b"")
    with pytest.raises(InputError, match="a header of 4194304 bytes"):
        load(tmp_path / "bomb.npz")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.csv")


def test_unused_columns_are_named_in_the_schema(tmp_path):
    wide = DataSchema.model_validate({**schema().model_dump(), "ignore": ["age"]})
    path = csv_file(tmp_path, "x0,age,x1,x2,y\n0,x,0,0,a\n")
    assert len(load(path, wide)) == 1
    assert wide.digest == schema().digest  # which columns one owner does not use is nobody's business


def test_rounding_to_float32_stays_in_range(tmp_path):
    narrow = DataSchema.model_validate(
        {
            "columns": [{"name": "x", "lower": -0.1, "upper": 0.1}],
            "label": {"column": "y", "classes": ["a", "b"]},
        }
    )
    block = load(csv_file(tmp_path, "x,y\n0.1,a\n-0.1,b\n"), narrow)
    values = block["features"].astype(np.float64).ravel()
    assert (np.abs(values) <= 0.1).all()
    assert np.abs(values) == pytest.approx(0.1)


IMAGES = DataSchema.model_validate(
    {
        "dtype": "uint8",
        "shape": [1, 2, 3],
        "lower": 0,
        "upper": 250,
        "label": {"column": "labels", "classes": ["0", "1", "2"]},
    }
)
PIXELS = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
CLASSES = np.array([0, 1, 2, 0, 1], np.int64)


def npz(tmp_path, **arrays):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 1, 2, 3), (5, 6)])
def test_npz(tmp_path, shape):
    block = load(npz(tmp_path, features=PIXELS.reshape(shape), labels=CLASSES), IMAGES)
    assert (block["features"] == PIXELS.reshape(5, 6)).all()
    assert (block["label"] == CLASSES).all()
    assert IMAGES.record_bytes == 10


def bad_pixels(row, place, value, dtype=np.uint8):
    pixels = PIXELS.astype(dtype)
    pixels.reshape(5, 6)[row, place] = value
    return pixels


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": CLASSES}, "array 'features': expected by the schema, got only 'labels'"),
        ({"features": PIXELS}, "array 'labels': expected by the schema"),
        (
            {"features": PIXELS, "labels": CLASSES[:4]},
            r"one label for each of 5 records, got shape \[4\]",
        ),
        (
            {"features": PIXELS[:, :1], "labels": CLASSES},
            r"of shape \[1, 2, 3\], got \[1, 3\]",
        ),
        ({"features": PIXELS[:0], "labels": CLASSES[:0]}, "expected at least one record"),
        ({"features": PIXELS.astype(str), "labels": CLASSES}, "expected an array of numbers"),
        ({"features": np.asfortranarray(PIXELS), "labels": CLASSES}, "expected row-major order"),
        (
            {"features": bad_pixels(3, 4, 251), "labels": CLASSES},
            r"row 4, column \[0, 1, 1\]: expected a whole number from 0 to 250, got 251",
        ),
        (
            {"features": bad_pixels(1, 0, -1, np.int32), "labels": CLASSES},
            r"row 2, column \[0, 0, 0\]: .*-1",
        ),
        ({"features": bad_pixels(1, 0, 0.5, np.float64), "labels": CLASSES}, "expected a whole number"),
        ({"features": bad_pixels(1, 0, np.nan, np.float64), "labels": CLASSES}, "got nan"),
        ({"features": bad_pixels(1, 0, np.inf, np.float32), "labels": CLASSES}, "got inf"),
        (
            {"features": PIXELS, "labels": CLASSES + 1},
            "row 3, label: .* index from 0 to 2, got 3",
        ),
        ({"features": PIXELS, "labels": CLASSES - 1}, "row 1, label: .* got -1"),
        ({"features": PIXELS, "labels": CLASSES / 2}, "row 2, label: .* got 0.5"),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        load(npz(tmp_path, **arrays), IMAGES)


def test_npz_never_unpickles(tmp_path):
    path = npz(tmp_path, features=np.array([print], dtype=object), labels=CLASSES[:1])
    with pytest.raises(InputError, match="expected an array of numbers"):
        load(path, IMAGES)
    raw = npz(tmp_path, features=PIXELS, labels=CLASSES).read_bytes()
    for cut in (30, len(raw) // 2, len(raw) - 5):
        with pytest.raises(InputError):
            load(csv_file(tmp_path, raw[:cut], "cut.npz"), IMAGES)


def idx(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx(tmp_path):
    path = csv_file(tmp_path, idx(PIXELS), "images")
    labels = csv_file(tmp_path, gzip.compress(idx(CLASSES.astype(np.uint8))), "labels.gz")
    assert (
        load(path, IMAGES, labels=labels).tobytes()
        == load(npz(tmp_path, features=PIXELS, labels=CLASSES), IMAGES).tobytes()
    )
    for bad, message in [
        (idx(PIXELS)[:-1], "the file ends before the 5 rows"),
        (idx(PIXELS)[:9], "ends within its header"),
        (idx(PIXELS, 0x0E), "expected an IDX file of bytes or float32"),
    ]:
        with pytest.raises(InputError, match=message):
            load(csv_file(tmp_path, bad, "bad"), IMAGES, labels=labels)
    with pytest.raises(InputError, match="give the file of its labels"):
        load(path, IMAGES)


def test_csv_for_an_array_schema(tmp_path):
    with pytest.raises(InputError, match="schema has no columns"):
        load(csv_file(tmp_path, GOOD), IMAGES)


def test_reading_streams(tmp_path):
    """Blocks are bounded whatever the file's size."""
    many = np.zeros((300_000, 6), np.uint8)
    path = npz(tmp_path, features=many, labels=np.zeros(300_000, np.int8))
    sizes = [block.nbytes for block in read_records(path, IMAGES)]
    assert len(sizes) > 2
    assert max(sizes) <= 1 << 20


# Sealing a file


@pytest.fixture
def owner(tmp_path):
    return Identity.generate("north")


def do_seal(tmp_path, owner, text=GOOD, **options):
    given = {"budget": Budget.of("3", "1e-5"), "at_s": NOW_S, **options}
    return seal(
        csv_file(tmp_path, text), schema(), owner, tmp_path / "d.sealed", tmp_path / "d.store", **given
    )


def test_seal_keeps_the_key(tmp_path, owner):
    seen = []
    sealed = do_seal(tmp_path, owner, progress=lambda done, total: seen.append((done, total)))
    with Store.open(tmp_path / "d.store", owner) as store:
        key = Ledger(store).data_key(sealed.digest)
        assert store.budget == Budget.of("3", "1e-5")
    plain = b"".join(open_dataset(tmp_path / "d.sealed", key))
    assert plain == load(tmp_path / "d.csv").tobytes()
    assert (sealed.header.records, sealed.header.schema) == (2, schema().digest)
    assert seen[-1] == (2, 2)
    with pytest.raises(ProtocolError, match="data_header_invalid"):
        list(open_dataset(tmp_path / "d.sealed", bytes(32)))


@pytest.mark.parametrize("row", [row for row, _ in ROWS])
def test_bad_input_writes_nothing(tmp_path, owner, row):
    with pytest.raises(InputError):
        do_seal(tmp_path, owner, GOOD + row + "\n")
    assert [p.name for p in tmp_path.iterdir()] == ["d.csv"]


def test_a_second_dataset_keeps_the_budget(tmp_path, owner):
    do_seal(tmp_path, owner)
    for path in (tmp_path / "d.sealed",):
        with pytest.raises(InputError, match="exists and is not overwritten"):
            do_seal(tmp_path, owner)
        path.unlink()
    with pytest.raises(InputError, match="a budget is not changed"):
        do_seal(tmp_path, owner, budget=Budget.of("30", "1e-5"))
    do_seal(tmp_path, owner, budget=None)
    with Store.open(tmp_path / "d.store", owner) as store:
        assert len(store.entries("dataset")) == 2


def test_seal_needs_a_budget_once_and_a_folder(tmp_path, owner):
    with pytest.raises(InputError, match="give its budget"):
        do_seal(tmp_path, owner, budget=None)
    with pytest.raises(InputError, match="cannot be written"):
        seal(
            csv_file(tmp_path, GOOD), schema(), owner, tmp_path / "no" / "d.sealed", tmp_path / "d.store",
            budget=Budget.of("3", "1e-5"), at_s=NOW_S,
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["d.csv"]


def test_store_that_cannot_be_written_leaves_no_sealed_file(tmp_path, owner):
    with pytest.raises(InputError, match="cannot be written"):
        seal(
            csv_file(tmp_path, GOOD), schema(), owner, tmp_path / "d.sealed", tmp_path / "no" / "d.store",
            budget=Budget.of("3", "1e-5"), at_s=NOW_S,
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["d.csv"]


def test_data_that_changes_while_it_is_read(tmp_path, owner):
    from myelin.contract import seal_dataset

    counts = iter([3, 2])
    with pytest.raises(InputError, match="changed while it was read"):
        seal_dataset(lambda: iter([records(next(counts))]), schema(), tmp_path / "d.sealed", bytes(32))
    assert list(tmp_path.iterdir()) == []
