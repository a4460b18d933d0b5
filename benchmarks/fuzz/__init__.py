"""Damaged and hostile inputs through the public functions: `python -m benchmarks.fuzz --help`.

A corpus is a module here with two functions: `cases(seed, n)` yields n inputs, the same for the
same numbers, as (name, bytes, suffix) or (name, {path: bytes}, entry); `attempt(path)` gives one of
them to the function that a command would give it to. It may also have `warm_up()`, called before
memory is limited, and `SECONDS`, the processor time that one input may take.
"""
