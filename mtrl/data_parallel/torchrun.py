"""Whether torchrun started this process, as its environment variables tell; nothing is imported for it."""

from __future__ import annotations

import os

from mtrl.errors import BadInput


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def refuse_torchrun(what: str) -> None:
    """Raises BadInput, which one of the processes reports, if torchrun started several."""
    if launched():
        error = BadInput(f"torchrun trains one run with several processes; it cannot be combined with {what}")
        error.reported = os.environ.get("RANK", "0") != "0"
        raise error
