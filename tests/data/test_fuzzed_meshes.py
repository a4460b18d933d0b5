"""A slice of the corpus of damaged meshes: read, or refused in one sentence."""

import pytest

from benchmarks.fuzz import meshes as corpus
from iso3d_jax.core.errors import UserError


def test_damaged_meshes_are_read_or_refused_in_one_sentence(tmp_path):
    refused = 0
    for name, files, entry in corpus.cases(11, 400):
        folder = tmp_path / name
        folder.mkdir()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        try:
            corpus.attempt(folder / entry)
        except UserError as e:
            refused += 1
            assert "\n" not in str(e) and 10 < len(str(e)) < 600, name
    assert 100 < refused < 395


def test_the_corpus_is_whole_before_it_is_damaged_and_the_same_for_a_seed(tmp_path):
    for kind, (files, entry) in corpus._wholes().items():
        folder = tmp_path / kind
        folder.mkdir()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        corpus.attempt(folder / entry)
    first, again, other = (list(corpus.cases(seed, 30)) for seed in (1, 1, 2))
    assert first == again and first != other
    with pytest.raises(UserError):
        corpus.attempt(tmp_path / "gone.obj")
