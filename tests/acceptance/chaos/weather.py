"""What was broken, and when: a promise holds for as long as what it rests on was well."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Spell:
    """From one moment of the monotonic clock to another; endless while it lasts."""

    what: str
    began: float
    ended: float = float("inf")


class Weather:
    """All spells of a run."""

    def __init__(self) -> None:
        self.spells: list[Spell] = []

    @contextmanager
    def spell(self, what: str) -> Iterator[None]:
        """Broken for as long as the block runs."""
        spell = Spell(what, time.monotonic())
        self.spells.append(spell)
        try:
            yield
        finally:
            spell.ended = time.monotonic()

    def was_clear(self, what: set[str], since: float, until: float, *, aftermath: float) -> bool:
        """Whether none of these was broken between two moments, nor in the `aftermath` seconds before."""
        return not any(
            spell.began <= until and spell.ended + aftermath >= since for spell in self.spells if spell.what in what
        )

    def seconds(self) -> dict[str, float]:
        """How long each was broken in all."""
        total: Counter[str] = Counter()
        for spell in self.spells:
            total[spell.what] += min(spell.ended, time.monotonic()) - spell.began  # type: ignore[assignment]
        return {what: round(seconds, 1) for what, seconds in total.items()}
