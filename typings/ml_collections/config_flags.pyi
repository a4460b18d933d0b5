from typing import Any

from absl import flags
from ml_collections.config_dict import ConfigDict

class UnsupportedOperationError(flags.Error): ...

def DEFINE_config_dict(
    name: str,
    config: ConfigDict,
    help_string: str = "ConfigDict instance.",
    flag_values: flags.FlagValues = ...,
    lock_config: bool = True,
    accept_new_attributes: bool = False,
    sys_argv: list[str] | None = None,
    **kwargs: Any,
) -> flags.FlagHolder[ConfigDict]: ...
