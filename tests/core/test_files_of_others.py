"""JSON and arrays that are damaged: one sentence that names the file and what to do."""

import json

import numpy as np
import pytest

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.json_files import need, read_object


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"{", "is damaged"), (b"[]", "no JSON object"), (b"\xff{}", "is damaged"),
        (b"", "is damaged"),
        (b'{"a":' * 100_000, "nested too deep"), (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is damaged"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(tmp_path, raw, words):
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=words) as error:
        read_object(path, "delete it")
    assert str(path) in str(error.value) and str(error.value).endswith("; delete it")


def test_our_own_notes_may_have_losses_that_are_not_finite(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"loss": float("inf")}))
    assert read_object(tmp_path / "x.json", finite=False) == {"loss": float("inf")}


def test_a_folder_or_nothing_in_place_of_a_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            read_object(path)
        with pytest.raises(UserError, match="cannot be read"):
            read_arrays(path, "delete it")


def test_entries_are_checked_for_kind_and_bounds():
    content = {"a": 1, "b": True, "c": "x", "d": 1e400, "n": None}
    assert need(content, "a", float, "x", least=1, most=1) == 1.0
    assert need(content, "n", int, "x", default=3) == 3
    for key, kind in (("a", str), ("b", int), ("c", int), ("c", list), ("d", float), ("n", int)):
        with pytest.raises(UserError, match=f"'{key}'"):
            need(content, key, kind, "x")
    with pytest.raises(UserError, match="not between 2 and 3"):
        need(content, "a", int, "x", least=2, most=3)
    for odd in ({"\0\n": []}, {"\0\n": 10**30}, {"\0\n": None}):  # a key of the file's own
        with pytest.raises(UserError) as error:
            need(odd, "\0\n", int, "x")
        assert str(error.value).isprintable()


def test_shortened_text_is_one_printable_line():
    text = shorten("a\nb\x00" + "c" * 10_000 + "\ud800")
    assert len(text) < 250 and text.isprintable() and text.startswith("a b")


def test_every_damage_to_an_npz_is_one_sentence(tmp_path):
    """Each byte's bits turned, and each length: what is read is right or the file is named."""
    path = tmp_path / "state.npz"
    np.savez(path, a=np.arange(20), about=json.dumps({"config": {}}))
    raw, refused = path.read_bytes(), 0
    changed = [raw[:n] for n in range(0, len(raw), 7)]
    changed += [raw[:n] + bytes([raw[n] ^ 0xFF]) + raw[n + 1 :] for n in range(len(raw))]
    for data in changed:
        path.write_bytes(data)
        try:
            read = read_arrays(path, "delete it")
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "delete it" in str(error)
        else:
            assert all(np.array_equal(read[n], np.arange(20)) for n in read if n == "a")
    assert refused > len(changed) // 2
