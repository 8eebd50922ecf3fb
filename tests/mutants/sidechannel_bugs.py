"""Branches and addresses that depend on secrets, in the places where a compiler or a hand might put them."""

from __future__ import annotations

from bug import Bug

ENGINE = "enclave/engine/src"
MECHANISM = "enclave/mechanism/src"
KERNELS = "src/myelin/schedule/kernels"
PARTS = ("tests/sidechannel/test_parts.py::test_no_branch_or_address_depends_on_a_secret",)
HOSPITALS = ("tests/sidechannel/test_demos.py::test_steps_of_the_hospitals_tell_nothing",)
MNIST = ("tests/sidechannel/test_demos.py::test_steps_of_mnist_tell_nothing",)

_EXITING = """if black_box(place) >= black_box(end) && !crosses && !begins_high {
            break;
        }
        let exchanged = mask(crosses ^ begins_high ^ (place >= end));"""

SIDE_CHANNELS = (
    Bug(
        "an oblivious gather that stops where nothing more moves",
        f"{MECHANISM}/gather.rs",
        "let exchanged = mask(crosses ^ begins_high ^ (place >= end));",
        _EXITING,
        PARTS,
        "oblivious algorithms with an early exit (timing of samplers, 2112.05307)",
    ),
    Bug(
        "the sampler looks up a word by its rank",
        f"{MECHANISM}/sampler.rs",
        "cut.word = select(here, word, cut.word);",
        "cut.word = select(here, listed[(black_box(wanted) & 63) as usize], cut.word);",
        PARTS,
        "an address of a secret (cache attacks on table look-ups)",
    ),
    Bug(
        "features are looked at until one is out of range",
        f"{ENGINE}/dataset.rs",
        "(&[lower], &[upper]) => raw.fold(true, |fit, raw| fit & inside(raw, lower, upper)),",
        "(&[lower], &[upper]) => {\n"
        "            raw.fold(true, |fit, raw| fit && core::hint::black_box(inside(raw, lower, upper)))\n"
        "        }",
        MNIST,
        "validation that takes as long as its input is right (memcmp of passwords)",
    ),
    Bug(
        "an empty slot takes less time",
        f"{ENGINE}/gather.rs",
        "features(data, self.record(slot, index).0, kept(index), view);",
        "if kept(index) != 0 {\n"
        "                features(data, self.record(slot, index).0, kept(index), view);\n"
        "            }",
        HOSPITALS,
        "padding that tells how many were drawn (timing of samplers, 2112.05307)",
    ),
    Bug(
        "who was drawn is read by address where it is to be hidden",
        f"{ENGINE}/gather.rs",
        "let Some(sample) = self.sample else {",
        "let Some(sample) = self.sample.filter(|_| slot % 2 == 1) else {",
        HOSPITALS,
        "access patterns that tell the sample: no amplification (Sasy and Ohrimenko 2019)",
    ),
    Bug(
        "a kernel that skips what is zero",
        f"{KERNELS}/pool.py",
        "        store(self.y, at, part, lanes)\n\n    def clear",
        "        with T.If(load(self.x, at) > tirx.FloatImm('float32', 0.0)), T.Then():\n"
        "            store(self.y, at, part, lanes)\n\n    def clear",
        MNIST,
        "sparse gradients skipped by value",
    ),
)
