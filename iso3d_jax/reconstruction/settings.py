"""What makes two configs those of one run, and what a run that goes on may change."""

from __future__ import annotations

import json

# what may differ between a run and its continuation, and changes nothing of the optimisation
FREE_KEYS = (
    "save_every", "preview_every", "steps_per_call", "max_bad_steps", "memory", "show", "video",
    "mesh",
)  # fmt: skip
# what a continuation may change for the iterations that are left; the report says so
LIVE_KEYS = ("seed", "optimizer.encoding", "optimizer.networks", "guidance.scale")


def live_keys(config: dict) -> tuple[str, ...]:
    """`LIVE_KEYS`, and for a draft the rate of its networks too."""
    return LIVE_KEYS + (("draft.networks",) if config["mode"] == "views" else ())


def comparable(config: dict, *, live: bool = False) -> dict:
    """The part of a config, as a dict, that a continued run must share; lists for tuples.

    Args:
      live: with `LIVE_KEYS`, which the iterations that are done were made with.
    """
    kept = json.loads(json.dumps({k: v for k, v in config.items() if k not in FREE_KEYS}))
    for name in () if live else live_keys(config):
        *folders, key = name.split(".")
        inner = kept
        for folder in folders:
            inner = inner.get(folder, {})
        inner.pop(key, None)
    return kept


def changes(before: dict, now: dict, iteration: int) -> list[dict]:
    """Which of `LIVE_KEYS` a continued run changes, with the iteration from which it does."""

    def value(config, name):
        for key in name.split("."):
            config = config[key]
        return config

    return [
        {"iteration": iteration, "key": name, "from": value(before, name), "to": value(now, name)}
        for name in live_keys(now)
        if value(before, name) != value(now, name)
    ]
