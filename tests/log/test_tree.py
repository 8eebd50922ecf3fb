"""The tree: known roots of RFC 6962/9162 test trees, and every proof of every small tree, right and wrong."""

import hashlib

import pytest

from myelin.log.tree import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves of the Certificate Transparency reference implementation's tests, and the roots of its trees.
LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    bytes(range(0x50, 0x58)),
    bytes(range(0x60, 0x70)),
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree(size):
    return [leaf_hash(str(n).encode()) for n in range(size)]


def recursive_root(hashes):
    """Section 2.1.1 as it is written."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return hashlib.sha256(b"\1" + recursive_root(hashes[:k]) + recursive_root(hashes[k:])).digest()


def test_known_roots():
    assert root_of([]) == EMPTY_ROOT
    for size, root in enumerate(ROOTS, 1):
        assert root_of([leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == root


def test_roots_are_those_of_the_definition():
    for size in range(40):
        assert root_of(tree(size)) == recursive_root(tree(size))


def test_every_inclusion_proof_and_none_for_another_place():
    for size in range(1, 18):
        hashes, root = tree(size), root_of(tree(size))
        for index in range(size):
            proof = inclusion_proof(index, hashes)
            for claimed in range(-1, size + 2):
                right = claimed == index
                assert verify_inclusion(claimed, size, hashes[index], proof, root) == right
            assert not verify_inclusion(index, size, leaf_hash(b"other"), proof, root)
            assert not verify_inclusion(index, size, hashes[index], [*proof, bytes(32)], root)
            assert not verify_inclusion(index, size, hashes[index], proof, bytes(32))
            if proof:
                assert not verify_inclusion(index, size, hashes[index], proof[:-1], root)


def test_every_consistency_proof_and_none_for_a_fork():
    for second in range(1, 18):
        hashes, root = tree(second), root_of(tree(second))
        for first in range(1, second + 1):
            before = root_of(hashes[:first])
            proof = consistency_proof(first, hashes)
            assert verify_consistency(first, second, before, root, proof)
            forked = [*hashes[: first - 1], leaf_hash(b"fork")]
            assert not verify_consistency(first, second, root_of(forked), root, proof)
            removed = root_of([*hashes[: first - 1], *hashes[first:]])
            assert not verify_consistency(first, second, before, removed, proof)
            assert not verify_consistency(first, second, before, root, [*proof, bytes(32)])
            for other in range(second + 2):
                if other != first:
                    assert not verify_consistency(other, second, before, root, proof)


def test_sizes_out_of_range():
    assert not verify_inclusion(0, 1, leaf_hash(b"x"), [bytes(32)] * 65, bytes(32))
    assert not verify_consistency(2, 1, bytes(32), bytes(32), [])
    for call in (lambda: inclusion_proof(1, tree(1)), lambda: consistency_proof(0, tree(1))):
        with pytest.raises(ValueError):
            call()
