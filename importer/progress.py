"""How far an import is, and what came of it.

On a terminal a bar with rate and time left; elsewhere (a log, a pipe) a plain line every few seconds. All of it goes to
standard error, the summary to standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from importer.sender import Answered, Rejection

MAX_PROBLEMS = 20
"""Lines reported one by one; the rest is counted. Whoever has more has one cause for all of them."""

PLAIN_INTERVAL_SECONDS = 5.0


@dataclass(slots=True)
class Tally:
    """What has become of the rows so far. `broken` says why reading ended early, if it did."""

    accepted: int = 0
    duplicates: int = 0
    dropped: int = 0
    rejected: int = 0
    unreadable: int = 0
    broken: str | None = None
    problems: list[Rejection] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def answered(self) -> int:
        """Events that the gateway has answered for."""
        return self.accepted + self.duplicates + self.dropped + self.rejected

    @property
    def is_complete(self) -> bool:
        """Whether every row of the file is in the log (or kept out of it by consent)."""
        return not self.rejected and not self.unreadable and self.broken is None

    def add(self, answer: Answered) -> None:
        self.accepted += answer.accepted
        self.duplicates += answer.duplicates
        self.dropped += answer.dropped
        self.rejected += answer.rejected
        for rejection in answer.rejections:
            self._note(rejection)

    def add_unreadable(self, line: int, reason: str) -> None:
        """A row that was not sent."""
        self.unreadable += 1
        self._note(Rejection(line, reason))

    def rate(self) -> float:
        """Events a second since the start."""
        return self.answered / max(time.monotonic() - self.started, 1e-9)

    def summary(self) -> str:
        """Several lines for people: problems by line first, then the counts."""
        lines = [f"line {problem.line}: {problem.reason}" for problem in sorted(self.problems, key=lambda p: p.line)]
        more = self.rejected + self.unreadable - len(self.problems)
        if more > 0:
            lines.append(f"… and {more:,} more like these.")
        if self.broken is not None:
            lines.append(f"{self.broken} What comes before is imported; repair the file and run it again.")
        return "\n".join([*lines, self._counts()])

    def _counts(self) -> str:
        optional = [
            (self.dropped, "dropped (the person's consent)"),
            (self.rejected, "rejected by the gateway"),
            (self.unreadable, "not sent"),
        ]
        more = "".join(f", {number:,} {what}" for number, what in optional if number)
        seconds = time.monotonic() - self.started
        counts = f"{self.accepted:,} events stored, {self.duplicates:,} were already there{more}"
        return f"{counts}; {seconds:.1f} s, {self.rate():,.0f} events/s."

    def _note(self, problem: Rejection) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


class Display(Protocol):
    """Something that shows a tally."""

    def update(self, tally: Tally, position: int) -> None:
        """`position` is how many bytes of the file have been answered for."""


class PlainDisplay:
    """A line now and then."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._last = time.monotonic()

    def update(self, tally: Tally, position: int) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL_SECONDS:
            return
        self._last = now
        sys.stderr.write(plain_line(tally, position, self._size, now - tally.started) + "\n")
        sys.stderr.flush()


def plain_line(tally: Tally, position: int, size: int, elapsed: float) -> str:
    """E.g. `12,000 events, 38 %, 2,400 events/s, about 8 s left`."""
    line = f"{tally.answered:,} events"
    if 0 < position <= size:
        left = elapsed * (size - position) / position
        line += f", {100 * position // size} %, {tally.rate():,.0f} events/s, about {left:.0f} s left"
    return line


class BarDisplay:
    """A bar on a terminal."""

    def __init__(self, progress: Progress, size: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=size or None, events="0", rate="–")

    def update(self, tally: Tally, position: int) -> None:
        self._progress.update(self._task, completed=position, events=f"{tally.answered:,}", rate=f"{tally.rate():,.0f}")


@contextmanager
def display(size: int) -> Iterator[Display]:
    """The display that fits standard error. `size` is that of the file in bytes, 0 when unknown."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(size)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[events]} events"),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarDisplay(progress, size)
