"""The type checker that jaxtyping's import hook gives to every function while tests run."""

from beartype import BeartypeConf, beartype

# A whole number is given for a float, as Python's own rules for annotations (PEP 484) have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
