"""Where weights are found: a file, a folder of diffusers or transformers, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import read_object
from iso3d_jax.weights.hub import asking_for
from iso3d_jax.weights.tensors import SUFFIXES, LazyTensor, is_index, open_tensors
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
    return read_object(path) if path.is_file() else {}


def _only_weights(folder: Path) -> Path:
    return folder / choose([p.name for p in folder.iterdir() if p.is_file()], str(folder))


_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")


def choose(names: list[str], where: str) -> str:
    """The one weights file among a folder's: an index before shards, safetensors before pickles,
    the plain one before its variants (`.fp16.`, `.non_ema.`)."""
    indices = [n for n in names if is_index(n)]
    single = [n for n in names if n.endswith(SUFFIXES) and not _SHARD.search(n)]
    single = [n for n in single if n not in _NO_WEIGHTS]
    safe = [n for n in single if n.endswith(".safetensors")]
    safe_indices = [n for n in indices if "bin" not in n.split(".")]
    for group in (safe, safe_indices, single, indices):
        plain = [n for n in group if not _variant(n)]
        group = plain or group
        if len(group) > 1:
            names = [n for n in group if n.startswith(("diffusion_pytorch_model", "model."))]
            group = names if len(names) == 1 else group
        if len(group) > 1:
            raise UserError(f"{where} has several weights, name one: {', '.join(sorted(group))}")
        if group:
            return group[0]
    raise UserError(f"{where} holds no weights: none of {', '.join(SUFFIXES)} is in it")


def _variant(name: str) -> str:
    """The variant that a weights file or an index is of, 'fp16' say; empty for the plain one."""
    _, *parts = name.split(".")
    known = ("json", "index", *(suffix.lstrip(".") for suffix in SUFFIXES))
    return ".".join(part for part in parts if part not in known)


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
        if is_index(chosen):
            shards = [path for path in here if _is_shard_of(path.name, chosen)]
            wanted += [str(path) for path in shards]
    return wanted


def _is_shard_of(name: str, index: str) -> bool:
    """Whether a file is a shard of an index, of the same variant: `x.fp16-00001-of-00002.bin` as
    diffusers writes it, or `x-00001-of-00002.fp16.bin` as it did before 0.29."""
    if not (_SHARD.search(name) and name.endswith(SUFFIXES)):
        return False
    whole = _SHARD.sub(".", name)
    return whole.split(".")[0] == index.split(".")[0] and _variant(whole) == _variant(index)
