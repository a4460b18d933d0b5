"""Model folders on the Hugging Face hub, fetched into its cache.

huggingface_hub is imported when it is needed. It reads HF_ENDPOINT, HF_HOME, HF_TOKEN and
HF_HUB_OFFLINE; what an earlier call brought is used where there is no connection.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from iso3d_jax.core.errors import UserError

FILES = ("model.json", "model.safetensors", "README.md", "LICENSE*")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(source: str) -> bool:
    """Whether a text is an 'owner/name' of which there is neither a path nor a folder 'owner'."""
    return bool(HUB_ID.fullmatch(source)) and not Path(source.partition("/")[0]).exists()


@contextlib.contextmanager
def asking_for(place: str) -> Iterator[ModuleType]:
    """huggingface_hub, kept quiet, to fetch what a user named; its failures become one sentence."""
    import huggingface_hub as hub

    # Without a connection it warns of every attempt; what matters is the sentence below.
    hub.logging.set_verbosity_error()
    try:
        yield hub
    except UserError:
        raise
    except Exception as error:  # its own, its HTTP client's and the socket's, by version
        raise UserError(
            f"no file or folder {place} is here, and the hub gave no such repository "
            f"({type(error).__name__}); download it elsewhere and give its path, or check the name "
            "and the connection"
        ) from None


def fetch_model(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model on the hub, from the cache where it is there already.

    Args:
      repo_id: 'owner/name'.
      revision: branch, tag or commit; the main branch if None.
      token: of the user; what the hub's own login left if None.

    Raises:
      UserError: no such repository, no connection and nothing in the cache, or no model in it.
    """
    with asking_for(repo_id) as hub:
        folder = hub.snapshot_download(
            repo_id, revision=revision, token=token, allow_patterns=list(FILES)
        )
    if not (Path(folder) / "model.json").is_file():
        raise UserError(
            f"{repo_id} on the hub is no model of this package: it has no model.json; PyTorch "
            f"weights become one with: iso3d convert --from {repo_id} --out DIR"
        )
    return Path(folder)
