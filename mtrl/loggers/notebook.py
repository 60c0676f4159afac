"""A live display in the output of a notebook's cell."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

_FORMAT = "<pre style=\"line-height:normal;font-family:Menlo,'DejaVu Sans Mono',consolas,monospace\">{code}</pre>"


class NotebookDisplay:
    """Shows one thing, which every update replaces: what `rich.live.Live` is to a terminal, without a thread."""

    def __init__(self, width: int = 115):
        """width: characters."""
        self._width = width
        self._handle: Any = None

    def start(self) -> None:
        """Opens the display."""
        from IPython.display import HTML, display

        self._handle = display(HTML(""), display_id=True)

    def update(self, renderable: RenderableType, refresh: bool = True) -> None:
        """Shows `renderable` in place of what was there."""
        from IPython.display import HTML

        console = Console(record=True, file=io.StringIO(), width=self._width, force_jupyter=False)
        console.print(renderable)
        self._handle.update(HTML(console.export_html(inline_styles=True, code_format=_FORMAT)))

    def stop(self) -> None:
        """Leaves what was shown last."""
