"""Where weights are found: a file, a folder of diffusers or transformers, or a hub id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from iso3d_jax.core.errors import UserError
from iso3d_jax.weights.hub import asking_for
from iso3d_jax.weights.tensors import INDEX_SUFFIXES, SUFFIXES, LazyTensor, open_tensors
from iso3d_jax.weights.torch_file import read_facts

SUBFOLDERS = ("unet", "vae", "image_encoder")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")


@dataclass
class Source:
    """One file (or its shards) and what the JSON files beside it say.

    `facts` are what our own `--to torch` put into a file: its model.json without the networks.
    """

    path: Path
    tensors: dict[str, LazyTensor]
    config: dict = field(default_factory=dict)
    scheduler: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def check_place(place: str) -> None:
    """UserError where nothing of that name is here and it cannot be a hub id either."""
    path = Path(place)
    if path.exists():
        return
    if path.suffix in SUFFIXES and place.count("/") < 2 or not _HUB_ID.fullmatch(place):
        raise UserError(f"{place} not found: give a weights file, its folder, or a hub id")


def open_sources(place: str) -> list[Source]:
    """Opens a path, or a hub id 'owner/name' or 'owner/name/file' where no such path exists.

    A folder with `unet`, `vae` or `image_encoder` in it is a diffusers pipeline: those of the
    three that it has are opened. Any other folder must hold one set of weights.

    Raises:
      UserError: nothing there, several candidates, no connection.
    """
    check_place(place)
    path = Path(place)
    if not path.exists():
        path = _download(place)
    if path.is_file():
        return [_open(path)]
    folders = [path / name for name in SUBFOLDERS if (path / name).is_dir()] or [path]
    sources = [_open(_only_weights(folder)) for folder in folders]
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    for source in sources:
        source.scheduler = scheduler
    return sources


def _open(path: Path) -> Source:
    tensors = open_tensors(path)
    return Source(path, tensors, _json(path.with_name("config.json")), facts=read_facts(path))


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return content if isinstance(content, dict) else {}


def _only_weights(folder: Path) -> Path:
    return folder / choose([p.name for p in folder.iterdir() if p.is_file()], str(folder))


def choose(names: list[str], where: str) -> str:
    """The one weights file among a folder's: an index before shards, safetensors before pickles,
    the plain one before its variants (`.fp16.`, `.non_ema.`)."""
    indices = [n for n in names if n.endswith(INDEX_SUFFIXES)]
    shard = re.compile(r"-\d{5}-of-\d{5}\.")
    single = [n for n in names if n.endswith(SUFFIXES) and not shard.search(n)]
    single = [n for n in single if n not in ("training_args.bin", "optimizer.bin")]
    for group in (
        [n for n in single if n.endswith(".safetensors")],
        [n for n in indices if n.endswith(".safetensors.index.json")],
        single,
        indices,
    ):
        plain = [n for n in group if n.removesuffix(".index.json").count(".") == 1]
        group = plain or group
        if len(group) > 1:
            names = [n for n in group if n.startswith(("diffusion_pytorch_model", "model."))]
            group = names if len(names) == 1 else group
        if len(group) > 1:
            raise UserError(f"{where} has several weights, name one: {', '.join(sorted(group))}")
        if group:
            return group[0]
    raise UserError(f"{where} holds no weights: none of {', '.join(SUFFIXES)} is in it")


def _download(place: str) -> Path:
    """Brings what is needed of a hub repository into the hub's own cache."""
    owner, name, *inside = place.split("/", 2)
    repo = f"{owner}/{name}"
    with asking_for(place) as hub:
        if inside:
            return Path(hub.hf_hub_download(repo, inside[0]))
        try:
            wanted = wanted_files(hub.HfApi().list_repo_files(repo), repo)
        except UserError:
            raise
        except Exception:  # no connection: what an earlier call brought
            return Path(hub.snapshot_download(repo, local_files_only=True))
        return Path(hub.snapshot_download(repo, allow_patterns=wanted))


def wanted_files(files: list[str], repo: str) -> list[str]:
    """The files of a repository that a conversion reads."""
    folders = [f for f in SUBFOLDERS if any(name.startswith(f + "/") for name in files)] or ["."]
    wanted = [f for f in files if f.endswith("config.json")]
    for folder in folders:
        here = [PurePosixPath(f) for f in files if str(PurePosixPath(f).parent) == folder]
        chosen = choose([path.name for path in here], f"the repository {repo}")
        prefix = "" if folder == "." else folder + "/"
        wanted.append(prefix + chosen)
        if chosen.endswith(".index.json"):
            stem = chosen.split(".")[0]
            wanted += [str(path) for path in here if path.name.startswith(stem + "-")]
    return wanted
