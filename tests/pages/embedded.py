"""A page's text without the files inside it, for what must not stand in it."""

import re


def without_files(text: str) -> str:
    """Takes base64 out, in which any few letters may stand by chance."""
    return re.sub(r"(?<=;base64,)[A-Za-z0-9+/=]+", "", text)
