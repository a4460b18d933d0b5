"""The one exception that is meant for the person at the terminal.

Raise `UserError` when something given from outside is wrong: a picture, a path, a flag, a
checkpoint. The message is one sentence (or two) that says what is wrong, where, and what to do.
`iso3d_jax.commands.command_line.run` prints it as `error: ...` and exits with status 2, without a
traceback. Everything else that is raised is a bug of ours and keeps its traceback.
"""


class UserError(Exception):
    """A mistake the user can mend; the message says what, where and what to do."""


class EmptySurface(UserError):
    """A scene that is empty: there is nothing to make a mesh of."""


def printable(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """A text with `instead` for each character that cannot be printed, line ends among them."""
    return "".join(c if c.isprintable() else instead for c in text)


def shorten(text: object, length: int = 200) -> str:
    """What a file said, for a message: one line of printable characters, its middle left out."""
    kept = str(text)
    if len(kept) > length:
        kept = f"{kept[: length // 2]} ... {kept[-length // 2 :]}"
    return printable(" ".join(kept.split()))
