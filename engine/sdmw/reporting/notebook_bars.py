"""Progress bars of a notebook, as HTML: no widget, so that nothing else has to be installed."""

import time
from importlib import import_module
from typing import Any

from sdmw.running import events
from sdmw.sizes import shown

REDRAW = 0.25  # seconds
WIDTH = 40  # characters of a bar


class NotebookBars:
    """A bar for each stage; IPython is there, since it is what runs."""

    def __init__(self) -> None:
        self._bars: dict[events.Stage, Any] = {}
        self._began: dict[events.Stage, tuple[float, int]] = {}
        self._drawn: dict[events.Stage, float] = {}

    def show(self, event: events.Progress) -> None:
        """Draw how far a stage is, four times a second at most, and its end."""
        now, stage = time.monotonic(), event.stage
        if event.done < event.total and now - self._drawn.get(stage, 0.0) < REDRAW:
            return
        self._drawn[stage] = now
        since, before = self._began.setdefault(stage, (now, event.done))
        rate = (event.done - before) / (now - since) if now > since else 0
        self._draw(event, int(rate))

    def stop(self) -> None:
        """Nothing is left to be drawn."""

    def _draw(self, event: events.Progress, rate: int) -> None:
        ipython: Any = import_module("IPython.display")
        left = f", {shown(rate)}/s" if rate else ""
        full = WIDTH * event.done // max(1, event.total)
        drawn = "█" * full + "░" * (WIDTH - full)
        html = ipython.HTML(
            f"<div>{event.stage} <code>{drawn}</code> {shown(event.done)} of {shown(event.total)}{left}</div>"
        )
        if bar := self._bars.get(event.stage):
            bar.update(html)
        else:
            self._bars[event.stage] = ipython.display(html, display_id=True)
