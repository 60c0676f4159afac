"""Imports the simulator in the server that forks workers.

What cannot be imported there must not end the server: the worker that needs it fails in its turn, and says why.
"""

import contextlib

with contextlib.suppress(Exception):
    import envs.metaworld.slot_env  # noqa: F401
