"""What differs between two bundles, told in lines: what is created, what is changed and how, what stays. Pure.

Guarantees: two bundles differ exactly when `compare` finds a change; nothing that a name or a text holds reaches a
terminal but as text. Steps are the same by their labels, workflows and audiences by their names.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_VALUE_CHARACTERS = 60
"""Of a value on a line."""
MAX_LINE_CHARACTERS = 160
"""Of a line of a text that is shown line by line."""
INDENT = "    "


@dataclass(frozen=True, slots=True)
class Change:
    """One workflow or audience. `mark` is + (created), ~ (changed) or = (stays); `lines` say what of it changes."""

    mark: str
    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them, audiences first, each kind by name."""

    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is created or changed."""
        return all(change.mark == "=" for change in self.changes)

    def count(self, mark: str) -> int:
        """How many are created, changed, or stay."""
        return sum(change.mark == mark for change in self.changes)

    def text(self) -> str:
        """For people: what changes in full, what stays by its name."""
        told = [line for change in self.changes for line in (f"{change.mark} {change.title}", *change.lines)]
        return "".join(f"{line}\n" for line in told)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """From what there was to what there is to be; both are bundles of the same things."""
    found = [
        _compare_one(word, held.get(each["name"]), each)
        for word, key in (("audience", "audiences"), ("workflow", "workflows"))
        for held in [{each["name"]: each for each in before[key]}]
        for each in after[key]
    ]
    return Comparison(tuple(found))


def quoted(text: str) -> str:
    """A name, between quotes, that can do nothing to a terminal."""
    return "".join(
        character if character.isprintable() else f"\\u{ord(character):04x}"
        for character in json.dumps(text, ensure_ascii=False)
    )


def _compare_one(word: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Change:
    title = f"{word} {quoted(after['name'])}"
    if before is None:
        return Change("+", title, tuple(_new(after)))
    lines = tuple(f"{INDENT}{line}" for line in _changed(before, after))
    return Change("~" if lines else "=", title, lines)


def _new(written: Mapping[str, Any]) -> Iterator[str]:
    if "isActive" in written:
        yield f"{INDENT}{'on' if written['isActive'] else 'off'}"
    for step in written.get("steps", ()):
        yield f"{INDENT}+ step {_step_title(step)}"


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    rest = [{key: value for key, value in each.items() if key not in ("name", "steps")} for each in (before, after)]
    yield from _differences(rest[0], rest[1], "")
    yield from _changed_steps(before.get("steps", ()), after.get("steps", ()))


def _changed_steps(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    held, wanted = ({step["label"]: step for step in steps} for steps in (before, after))
    for label, step in held.items():
        if label not in wanted:
            yield f"- step {_step_title(step)}"
    for label, step in wanted.items():
        if label not in held:
            yield f"+ step {_step_title(step)}"
            continue
        lines = list(_differences(held[label], step, ""))
        if lines:
            yield f"~ step {quoted(label)}"
            yield from (f"{INDENT}{line}" for line in lines)
    if [label for label in held if label in wanted] != [label for label in wanted if label in held]:
        yield f"steps in another order: {', '.join(map(quoted, wanted))}"
    elif list(held) != list(wanted) and any(label not in held for label in list(wanted)[:-1]):
        yield f"steps from now on: {', '.join(map(quoted, wanted))}"


def _step_title(step: Mapping[str, Any]) -> str:
    return f"{quoted(step['label'])} ({step['type']})"


def _differences(before: Any, after: Any, path: str) -> Iterator[str]:
    """One line for each value that is not the same, with its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{path}.{_key(key)}" if path else _key(key)
            if key not in after:
                yield f"{place}: {_short(before[key])} → nothing"
            elif key not in before:
                yield f"{place}: nothing → {_short(after[key])}"
            else:
                yield from _differences(before[key], after[key], place)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True):
        yield from _difference(before, after, path)


def _difference(before: Any, after: Any, path: str) -> Iterator[str]:
    """Long texts line by line, everything else on one line."""
    if not (isinstance(before, str) and isinstance(after, str) and _is_long(before + after)):
        yield f"{path}: {_short(before)} → {_short(after)}"
        return
    yield f"{path}:"
    lines = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm="")
    for line in list(lines)[2:]:
        if not line.startswith("@@"):
            yield f"{INDENT}{line[0]} {_cut(quoted(line[1:])[1:-1], MAX_LINE_CHARACTERS)}"


def _is_long(text: str) -> bool:
    return "\n" in text or len(text) > 2 * MAX_VALUE_CHARACTERS


def _key(key: str) -> str:
    return key if key.isidentifier() or key.startswith("$") else quoted(key)


def _short(value: Any) -> str:
    text = quoted(value) if isinstance(value, str) else _plain(json.dumps(value, ensure_ascii=False))
    return _cut(text, MAX_VALUE_CHARACTERS)


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
