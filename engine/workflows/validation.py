"""From what an author writes to a workflow that can be run, and back.

Guarantees: `read_definition` and `read_changes` raise for no JSON, and say everything that is wrong at once, each with
the path of the offending part; `unparse_definition` gives what reads as an equal definition. Pure, but they parse every
template: half a second for the largest ones, so call them in a thread. Leaves to others: whether the templates and the
audience that are named exist in the project (`named_nodes` says where they are named).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from engine.egress import Egress
from engine.errors import UserError
from engine.json_limits import find_problem
from engine.node_ids import NodeKind
from engine.workflows.configs import read_config, read_target, unparse_config
from engine.workflows.definition import (
    END,
    Definition,
    SendEmail,
    Step,
    StepConfig,
    StepType,
    Target,
    Trigger,
)
from engine.workflows.fields import Fields, Path, Problems, find_choice, nearest, quote
from engine.workflows.graph import UnknownTarget, find_endless_circle, resolve_target
from engine.workflows.triggers import read_trigger, unparse_trigger

MAX_STEPS = 100
"""Longer journeys are several workflows that trigger each other."""
MAX_CONFIG_BYTES = 64 * 1024
"""Of one step's config as JSON: longer mails belong into templates."""
MAX_STEPS_BYTES = 256 * 1024
"""Of all steps' configs together, as much as one template: a save parses them all."""
MAX_NAME_CHARACTERS = 100
"""Fits on one line of a dashboard."""
MAX_DESCRIPTION_CHARACTERS = 1000
MAX_LABEL_CHARACTERS = 100
MAX_DELAY_MINUTES = 366 * 24 * 60.0
"""A year, whichever."""

STEP_TYPE_ALIASES: Mapping[str, StepType] = {
    "email": StepType.SEND_EMAIL,
    "push": StepType.SEND_PUSH,
    "sms": StepType.SEND_SMS,
}
"""Older name of a type → the type."""

_DEFINITION_KEYS = ("id", "name", "description", "isActive", "trigger", "steps", "expectedVersion")
_STEP_KEYS = ("label", "type", "config", "delayMinutes", "next")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Outcome = tuple[Definition | None, tuple[UserError, ...]]


class Changes(msgspec.Struct, frozen=True):
    """What was given of a workflow. What is UNSET stays as it is."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    trigger: Trigger | UnsetType = UNSET
    steps: tuple[Step, ...] | UnsetType = UNSET

    def over(self, stored: Definition) -> Definition:
        """The workflow with the changes made."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return msgspec.structs.replace(stored, **given)


def read_definition(given: Mapping[str, Any], *, egress: Egress, path: Path = ("input",)) -> Outcome:
    """A whole workflow, with the names of SaveWorkflowInput; or everything that is wrong with it.

    `id`, `isActive` and `expectedVersion` are allowed and not looked at: they say what to do with the workflow.
    """
    problems = Problems()
    changes = _read(given, _DEFINITION_KEYS, egress=egress, path=path, problems=problems)
    if problems.found or changes.name is UNSET or changes.trigger is UNSET or changes.steps is UNSET:
        return None, tuple(problems.found)
    description = None if changes.description is UNSET else changes.description
    return Definition(changes.name, changes.trigger, changes.steps, description), ()


def read_changes(
    given: Mapping[str, Any], *, egress: Egress, path: Path = ("input",)
) -> tuple[Changes | None, tuple[UserError, ...]]:
    """What is given of a workflow that is there; or everything that is wrong with it. Null clears what may be empty."""
    problems = Problems()
    changes = _read(given, given.keys(), egress=egress, path=path, problems=problems)
    return (None, tuple(problems.found)) if problems.found else (changes, ())


def _read(
    given: Mapping[str, Any], wanted: Collection[str], *, egress: Egress, path: Path, problems: Problems
) -> Changes:
    fields = Fields(given, path, problems, name="A workflow", known=_DEFINITION_KEYS)
    name = fields.needed_text("name", most=MAX_NAME_CHARACTERS) if "name" in wanted else UNSET
    description = fields.remark("description", most=MAX_DESCRIPTION_CHARACTERS) if "description" in wanted else UNSET
    trigger = read_trigger(fields) if "trigger" in wanted else UNSET
    steps = _read_steps(fields, egress) if "steps" in wanted else UNSET
    return Changes(name, description, UNSET if trigger is None else trigger, steps)


def unparse_definition(definition: Definition) -> dict[str, Any]:
    """The workflow as JSON of the shape of its input."""
    return {
        "name": definition.name,
        **({} if definition.description is None else {"description": definition.description}),
        "trigger": unparse_trigger(definition.trigger),
        "steps": [unparse_step(step) for step in definition.steps],
    }


def unparse_step(step: Step) -> dict[str, Any]:
    """As WorkflowStepInput."""
    written = {
        "label": step.label,
        "type": step.type.value,
        "config": unparse_config(step.config),
        "delayMinutes": step.delay_minutes if step.delay_minutes or step.type is StepType.WAIT else None,
        "next": step.next,
    }
    return {name: value for name, value in written.items() if value is not None}


def named_nodes(written: Definition | Changes, path: Path = ("input",)) -> Iterator[tuple[NodeKind, UUID, Path]]:
    """Every template and audience that a workflow names, or what was given of one, and where."""
    if written.trigger is not UNSET and written.trigger.audience_id is not None:
        yield NodeKind.AUDIENCE, written.trigger.audience_id, (*path, "trigger", "audienceId")
    for index, step in enumerate(() if written.steps is UNSET else written.steps):
        if isinstance(step.config, SendEmail) and step.config.template_id is not None:
            yield NodeKind.TEMPLATE, step.config.template_id, (*path, "steps", str(index), "config", "templateId")


def _read_steps(outer: Fields, egress: Egress) -> tuple[Step, ...]:
    given, path, problems = outer.value("steps", needed=True), outer.at("steps"), outer.problems
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        problems.add("steps must be a list.", path)
        return ()
    if not 1 <= len(given) <= MAX_STEPS:
        problems.add(f"A workflow has 1 to {MAX_STEPS} steps.", path, code="LIMIT_EXCEEDED" if given else "INVALID")
        return ()
    readers = [_StepReader(each, (*path, str(index)), problems) for index, each in enumerate(given)]
    if sum(reader.config_bytes for reader in readers) > MAX_STEPS_BYTES:
        message = f"The configs of all steps may take {MAX_STEPS_BYTES:,} bytes together: put texts into templates."
        problems.add(message, path, code="LIMIT_EXCEEDED")
        return ()
    labels = _labels(readers, problems)
    steps = [reader.read(label, labels, egress) for reader, label in zip(readers, labels, strict=True)]
    whole = tuple(step for step in steps if step is not None)
    if len(whole) == len(steps) and not problems.found:
        _check_circles(whole, path, problems)
    return whole


class _StepReader:
    """Reads one step: first what its label is and how large it is, then the rest, once all labels are known."""

    def __init__(self, given: Any, path: Path, problems: Problems) -> None:
        self.problems = problems
        self.path = path
        self.is_object = isinstance(given, Mapping)
        if not self.is_object:
            problems.add("A step must be an object.", path)
        self.fields = Fields(given if self.is_object else {}, path, problems, name="A step", known=_STEP_KEYS)
        self.config = self._config() if self.is_object else None
        self.config_bytes = 0 if self.config is None else self._size(self.config)
        self.type = self._type() if self.is_object else None

    def read(self, label: str, labels: Sequence[str], egress: Egress) -> Step | None:
        """The step; None when something is wrong."""
        if not self.is_object:
            return None
        delay = self._delay()
        follows = self._next(labels)
        config = self._read_config(labels, egress)
        if self.type is None or config is None:
            return None
        return Step(label=label, type=self.type, config=config, delay_minutes=delay, next=follows)

    def label(self) -> str | None:
        """The label that was given, if it may be one."""
        label = self.fields.text("label", most=MAX_LABEL_CHARACTERS)
        if label is None:
            return None
        if label.lower() == END or _NUMBER.fullmatch(label) or label != label.strip():
            message = "A label is neither a number nor end, and has no blanks around it."
            self.problems.add(message, self.fields.at("label"))
        return label

    def _type(self) -> StepType | None:
        value = self.fields.value("type", needed=True)
        if value is None:
            return None
        found = find_choice(value, StepType) or (
            STEP_TYPE_ALIASES.get(value.lower()) if isinstance(value, str) else None
        )
        if found is None:
            names = [each.value.lower() for each in StepType]
            near = nearest(value, names) if isinstance(value, str) else None
            said = f"{quote(value)} is no type of step" if isinstance(value, str) else "type must be a string"
            meant = f"did you mean {near}?" if near is not None else f"use one of {', '.join(names)}."
            self.problems.add(f"{said}: {meant}", self.fields.at("type"))
        return found

    def _config(self) -> Mapping[str, Any] | None:
        return self.fields.object("config", needed=True)

    def _size(self, config: Mapping[str, Any]) -> int:
        """Of the config as JSON; none when it cannot be stored, and then it is not read either."""
        path = self.fields.at("config")
        try:
            text = msgspec.json.encode(config)
        except (UnicodeEncodeError, OverflowError, TypeError, RecursionError):
            self.problems.add("The config holds something that is no JSON, or a number beyond 64 bits.", path)
            self.config = None
            return 0
        if len(text) > MAX_CONFIG_BYTES:
            message = f"A config takes at most {MAX_CONFIG_BYTES:,} bytes as JSON; this one takes {len(text):,}."
            self.problems.add(message, path, code="LIMIT_EXCEEDED")
            self.config = None
            return 0
        problem = find_problem(text, most_bytes=MAX_CONFIG_BYTES)
        if problem is not None:
            self.problems.add(problem.message, (*path, *problem.path))
            self.config = None
        return len(text)

    def _delay(self) -> float:
        delay = self.fields.value("delayMinutes", needed=self.type is StepType.WAIT)
        if delay is None:
            return 0
        is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
        if not is_number or not math.isfinite(delay) or not 0 <= delay <= MAX_DELAY_MINUTES:
            message = f"delayMinutes is a number from 0 to {MAX_DELAY_MINUTES:,.0f} (366 days)."
            self.problems.add(message, self.fields.at("delayMinutes"))
            return 0
        return float(delay)

    def _next(self, labels: Sequence[str]) -> Target | None:
        follows = read_target(self.fields, "next")
        if follows is not None and self.type is StepType.BRANCH:
            message = "A branch goes on where ifTrue and ifFalse say: leave next out."
            self.problems.add(message, self.fields.at("next"))
        self._check_target(follows, labels, self.fields.at("next"))
        return follows

    def _read_config(self, labels: Sequence[str], egress: Egress) -> StepConfig | None:
        if self.type is None or self.config is None:
            return None
        path = self.fields.at("config")
        if self.type is StepType.BRANCH:
            for key in ("ifTrue", "ifFalse"):
                self._check_target(self.config.get(key), labels, (*path, key))
        return read_config(self.type, self.config, path, self.problems, egress)

    def _check_target(self, target: Any, labels: Sequence[str], path: Path) -> None:
        """Whether there is such a step. What is no target at all is refused where it is read."""
        if not isinstance(target, str | int):
            return
        try:
            resolve_target(labels, target)
        except UnknownTarget:
            near = nearest(target, labels) if isinstance(target, str) else None
            meant = f"did you mean {quote(near)}?" if near else f"use a label, 0 to {len(labels) - 1}, or end."
            self.problems.add(f"There is no step {quote(str(target))}: {meant}", path)


def _labels(readers: Sequence[_StepReader], problems: Problems) -> list[str]:
    """The label of each step: its own, or one that is made of its type and a number."""
    given = [reader.label() for reader in readers]
    for index, label in enumerate(given):
        if label is not None and label in given[:index]:
            message = f"Step {given.index(label)} has this label already."
            problems.add(message, readers[index].fields.at("label"))
    taken = {label for label in given if label is not None}
    labels = []
    for reader, label in zip(readers, given, strict=True):
        labels.append(_made_label(reader.type, taken) if label is None else label)
        taken.add(labels[-1])
    return labels


def _made_label(step_type: StepType | None, taken: set[str]) -> str:
    kind = "step" if step_type is None else step_type.value.lower()
    return next(name for name in (f"{kind}_{number}" for number in range(1, 2 * MAX_STEPS)) if name not in taken)


def _check_circles(steps: tuple[Step, ...], path: Path, problems: Problems) -> None:
    circle = find_endless_circle(steps)
    if circle is None:
        return
    names = [quote(steps[index].label) for index in (*circle, circle[0])]
    message = f"The steps {' → '.join(names)} go round for ever: give one of them delayMinutes above 0."
    problems.add(message, (*path, str(circle[0])))
