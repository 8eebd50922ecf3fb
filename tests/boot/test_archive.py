"""The initrd's archive: known bytes, order, and what a kernel would read from it."""

from __future__ import annotations

import stat

from myelin.boot.archive import Entry, device, file, folder, pack


def entries_of(archive: bytes) -> list[tuple[str, list[int], bytes]]:
    """The archive as Documentation/driver-api/early-userspace/buffer-format.rst describes it."""
    found, at = [], 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + fields[11]]
        assert name.endswith(b"\0")
        start = -(-(at + 110 + fields[11]) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert len(archive) == start
            return found
        found.append((name[:-1].decode(), fields, archive[start : start + fields[6]]))
        at = -(-(start + fields[6]) // 4) * 4


def test_one_file_is_these_bytes() -> None:
    archive = pack({"a": file(b"hello")})
    head = "070701" + "00000001" + "000081A4" + "00000000" * 2 + "00000001" + "00000000" + "00000005"
    head += "00000000" * 4 + "00000002" + "00000000"
    assert archive.startswith(head.encode() + b"a\0hello\0\0\0" + b"070701")


def test_order_and_numbers_depend_on_names_alone() -> None:
    entries = {"b": file(b"2"), "a/x": file(b"1", executable=True), "a": folder(), "a/c": device(5, 1)}
    archive = pack(entries)
    assert archive == pack(dict(reversed(entries.items())))
    found = entries_of(archive)
    assert [name for name, _, _ in found] == ["a", "a/c", "a/x", "b"]
    assert [fields[0] for _, fields, _ in found] == [1, 2, 3, 4]
    for name, fields, content in found:
        entry = entries[name]
        _, mode, user, group, links, time, size, _, _, major, minor, _, check = fields
        assert (user, group, time, check) == (0, 0, 0, 0)
        assert (mode, content, size, (major, minor)) == (
            entry.mode,
            entry.content,
            len(entry.content),
            entry.device,
        )
        assert links == (2 if stat.S_ISDIR(mode) else 1)


def test_modes() -> None:
    assert folder() == Entry(0o040755)
    assert file(b"").mode == 0o100644
    assert file(b"", executable=True).mode == 0o100755
    assert device(5, 1).mode == 0o020600
