"""The small denoiser of `tests/small_training.py`."""

from tests.small_training import make_config, make_stage, make_task  # noqa: F401
