"""What stands after a config's colon."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iso3d_jax.commands import config_presets
from iso3d_jax.core.errors import UserError

PRESETS = ("full", "tiny")
DEFAULTS = dict(steps=3, rate=0.5, name="a", flag=False, free=None)


def parse(text):
    preset, options = config_presets.parse(text, PRESETS, **DEFAULTS)
    return preset, options.to_dict()


def test_by_hand():
    assert parse(None) == parse("") == ("full", DEFAULTS)
    assert parse("tiny") == ("tiny", DEFAULTS)
    assert parse("steps=7") == ("full", DEFAULTS | {"steps": 7})
    assert parse(" tiny , rate=2 ,flag") == ("tiny", DEFAULTS | {"rate": 2.0, "flag": True})
    assert parse("tiny,free=x=y") == ("tiny", DEFAULTS | {"free": "x=y"})


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    preset=st.sampled_from(PRESETS), steps=st.integers(-(10**9), 10**9),
    rate=st.floats(allow_nan=False, allow_infinity=False), flag=st.booleans(),
    name=st.text("abcxyz_./-0123456789", max_size=8), order=st.permutations(range(4)),
)  # fmt: skip
def test_what_is_written_is_read_in_any_order(preset, steps, rate, flag, name, order):
    parts = [f"steps={steps}", f"rate={rate!r}", f"flag={flag}", f"name={name}"]
    found = parse(",".join([preset, *(parts[i] for i in order)]))
    assert found == (preset, DEFAULTS | dict(steps=steps, rate=rate, flag=flag, name=name))
    assert type(found[1]["steps"]) is int and type(found[1]["rate"]) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tyni", "unknown preset 'tyni': did you mean 'tiny'?.*known are: full, tiny"),
        ("zzz", "unknown preset 'zzz': known are: full, tiny"),
        ("flag", "unknown preset 'flag'"),  # a flag alone is an option only after the preset
        ("tiny,stepz=3", "unknown preset option 'stepz': did you mean 'steps'"),
        ("tiny,steps=1.5", "'steps' is a whole number, not '1.5'"),
        ("tiny,rate=fast", "'rate' is a number, not 'fast'"),
        ("tiny,flag=maybe", "'flag' is true or false, not 'maybe'"),
        ("tiny,steps", "unknown preset 'steps'"),
    ],
)
def test_mistakes_are_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        parse(text)


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes"])
def test_ways_to_say_yes(text):
    assert parse(f"flag={text}")[1]["flag"] is True


@pytest.mark.parametrize("text", ["false", "0", "No"])
def test_ways_to_say_no(text):
    preset, options = config_presets.parse(f"flag={text}", PRESETS, flag=True)
    assert options.flag is False and preset == "full"
