"""A model folder onto the Hugging Face hub, with a card."""

from __future__ import annotations

from pathlib import Path

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.json_files import read_object
from iso3d_jax.weights.folders import WEIGHTS, check_model, find_bundle
from iso3d_jax.weights.hub import HUB_ID


def push_model(
    folder: str | Path | None, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Writes a model folder to the hub, with a card where it has none.

    Args:
      folder: of a model or a training run; None is the shipped small model.
      repo_id: 'owner/name'; made if it is not there.

    Returns:
      The address of the commit.

    Raises:
      UserError: no such folder, an id that is none, or the hub refused it.
    """
    import huggingface_hub as hub

    if not HUB_ID.fullmatch(repo_id):
        raise UserError(f"'{repo_id}' is no hub id: give owner/name")
    found = find_bundle(folder)
    check_model(found)
    api = hub.HfApi(token=token)
    card = found / "README.md"
    text = card.read_bytes() if card.is_file() else make_card(found, repo_id).encode()
    operations = [
        hub.CommitOperationAdd(name, str(found / name)) for name in ("model.json", WEIGHTS)
    ]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id, [hub.CommitOperationAdd("README.md", text), *operations],
            commit_message="Model of iso3d_jax",
        )  # fmt: skip
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the hub did not take {found} as {repo_id}: {reason}") from None
    return str(commit.commit_url)


def make_card(folder: Path, repo_id: str) -> str:
    """A model card in Markdown: what the folder's model.json says, and how to use it."""
    config = read_object(folder / "model.json")
    names = ("name", "resolution", "parameterization", "camera_encoding", "guidance_scale", "steps")
    rows = [f"| {name} | {config[name]} |" for name in names if config.get(name) is not None]
    networks = ", ".join(sorted(check_model(folder)))
    return "\n".join(
        [
            "---", "library_name: iso3d_jax", "pipeline_tag: image-to-3d", "tags:",
            "- image-to-3d", "- jax", "- flax", "---", "",
            f"# {repo_id.partition('/')[2]}", "",
            "A multi-view diffusion model for iso3d_jax: one picture to consistent views and a 3D "
            "mesh.", "",
            "```python", "import iso3d_jax as iso3d", "",
            f'pipe = iso3d.Pipeline.from_pretrained("{repo_id}")',
            'pipe.views("chair.png").save("views.png")',
            'pipe.reconstruct("chair.png").export("chair.glb")', "```", "",
            "| | |", "| --- | --- |", f"| networks | {networks} |", *rows, "",
        ]
    )  # fmt: skip
