"""How much memory this process has used at most."""

import sys

try:
    import resource
except ImportError:  # Windows
    resource = None
    import psutil


def peak_bytes() -> int:
    """The most memory that this process has held so far, in bytes."""
    if resource is None:
        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
