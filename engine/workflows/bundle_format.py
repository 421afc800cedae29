"""Workflows and audiences as one JSON document, with names in the place of ids: what is exported, and read back.

    {"$schema": …, "audiences": [{"name", "where"}], "workflows": [{"name", "isActive", "trigger", "steps"}]}

Everything is as in SaveAudienceInput and SaveWorkflowInput, but that a step names its template (`template`) and a
trigger its audience (`audience`). Canonical: members in one order, those that a client made up sorted by name, lists
sorted by name, no ids, no times, types and keys under their present names.

Guarantees: what `write_workflow` and `write_audience` give reads as an equal workflow or audience, in whichever project
there is what it names; `read_bundle` raises for no JSON, and says everything that is wrong at once, each with the path
of the offending part. Names are read without looking at a project: each becomes a symbol, an id that stands for it
until `resolve` puts the project's own in its place. Pure, but templates are parsed: call `read_bundle` in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import msgspec

from db.filters import Condition
from engine.audiences.conditions import ROOTS
from engine.audiences.saving import MAX_NAME_CHARACTERS as MAX_AUDIENCE_NAME_CHARACTERS
from engine.conditions import InvalidCondition, parse_conditions, unparse_conditions
from engine.egress import Egress
from engine.errors import UserError
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from engine.push.texts import check_text
from engine.workflows.definition import Definition, SendEmail, StepType
from engine.workflows.fields import ANYTHING, Fields, Path, Problems, find_choice, quote
from engine.workflows.validation import STEP_TYPE_ALIASES, named_nodes, read_definition, unparse_definition

MAX_WORKFLOWS = 1_000
"""In one bundle: it is imported in one transaction, within the time of one request."""
MAX_BUNDLE_BYTES = 2 * 1024 * 1024 - 16 * 1024
"""Of one bundle as JSON: what a request can bring, so that whatever is exported can be imported."""
MAX_BUNDLE_DEPTH = 64
"""Levels of arrays and objects, as in any JSON that a request brings."""

MAX_NAMED_CHARACTERS = 500
"""Of a name that leads to a template or an audience: none is longer."""

ROOT = ("bundle",)
_KEYS = ("$schema", "audiences", "workflows")
_AUDIENCE_KEYS = ("name", "where")
_IDS = {"templateId": "template", "audienceId": "audience"}
"""Keys that hold an id → those that hold a name in a bundle."""
_NEVER = ("id", "expectedVersion")
"""What a save takes and a bundle does not have."""
_FREE = frozenset({"body", "data", "headers", "traits", "value"})
"""Keys under which the members of objects are the client's own."""
_ID_WORDS = re.compile(r"\b(templateId|audienceId)\b")
_NAMESPACE = UUID("6f0c9a4e-2f55-4a5e-9b0f-3c1d7a8e5b21")

NameOf = Callable[[NodeKind, UUID], str]
"""The name of a template or an audience."""


class BundleAudience(msgspec.Struct, frozen=True):
    """An audience as a bundle has it."""

    name: str
    conditions: tuple[Condition, ...]
    path: Path


class BundleWorkflow(msgspec.Struct, frozen=True):
    """A workflow as a bundle has it: what it names are symbols. `is_active` None: the bundle does not say."""

    definition: Definition
    is_active: bool | None
    path: Path


class Bundle(msgspec.Struct, frozen=True):
    """What was read. `names` are those behind the symbols, with what kind of thing each is."""

    audiences: tuple[BundleAudience, ...]
    workflows: tuple[BundleWorkflow, ...]
    names: Mapping[UUID, tuple[NodeKind, str]]


def write_bundle(
    schema_url: str, audiences: Sequence[Mapping[str, Any]], workflows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The whole document, of written audiences and workflows in any order."""
    return {
        "$schema": schema_url,
        "audiences": sorted(audiences, key=_name_of),
        "workflows": sorted(workflows, key=_name_of),
    }


def write_audience(name: str, conditions: Sequence[Condition]) -> dict[str, Any]:
    """One audience."""
    return {"name": name, "where": _canonical(unparse_conditions(conditions))}


def write_workflow(definition: Definition, *, is_active: bool, name_of: NameOf) -> dict[str, Any]:
    """One workflow. Raises what `name_of` raises."""
    written = unparse_definition(definition)
    described: dict[str, Any] = {key: written[key] for key in ("name", "description") if key in written}
    return {
        **described,
        "isActive": is_active,
        "trigger": _canonical(_with_name(written["trigger"], "audienceId", name_of)),
        "steps": [_write_step(step, name_of) for step in written["steps"]],
    }


def depth_of(value: Any) -> int:
    """Levels of arrays and objects in a JSON value."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def resolve(definition: Definition, ids: Mapping[UUID, UUID]) -> Definition:
    """The workflow with a project's own ids in the place of symbols."""
    steps = tuple(
        msgspec.structs.replace(
            step, config=msgspec.structs.replace(step.config, template_id=ids[step.config.template_id])
        )
        if isinstance(step.config, SendEmail) and step.config.template_id is not None
        else step
        for step in definition.steps
    )
    trigger = definition.trigger
    if trigger.audience_id is not None:
        trigger = msgspec.structs.replace(trigger, audience_id=ids[trigger.audience_id])
    return msgspec.structs.replace(definition, steps=steps, trigger=trigger)


def symbols_in(workflow: BundleWorkflow) -> Iterator[tuple[UUID, Path]]:
    """Every template and audience that a workflow names, and where."""
    for _, symbol, path in named_nodes(workflow.definition, workflow.path):
        yield symbol, (*path[:-1], _IDS[path[-1]])


def read_bundle(given: Any, *, egress: Egress) -> tuple[Bundle | None, tuple[UserError, ...]]:
    """What a bundle holds; or everything that is wrong with it."""
    problems = Problems()
    if not isinstance(given, Mapping):
        return None, (UserError("A bundle is a JSON object, as exportWorkflows gives it.", "INVALID", ROOT),)
    fields = Fields(given, ROOT, problems, name="A bundle", known=_KEYS)
    fields.text("$schema")
    symbols = _Symbols()
    audiences = tuple(_read_audience(each, path, problems) for each, path in _items(fields, "audiences", problems))
    workflows = tuple(
        _read_workflow(each, path, problems, symbols, egress) for each, path in _items(fields, "workflows", problems)
    )
    if problems.found:
        return None, tuple(problems.found)
    return (
        Bundle(
            audiences=tuple(each for each in audiences if each is not None),
            workflows=tuple(each for each in workflows if each is not None),
            names=symbols.names,
        ),
        (),
    )


class _Symbols:
    """Ids that stand for names. The same name is the same symbol."""

    def __init__(self) -> None:
        self.names: dict[UUID, tuple[NodeKind, str]] = {}

    def of(self, kind: NodeKind, name: str) -> str:
        """A node id."""
        symbol = uuid5(_NAMESPACE, f"{kind.name} {name}")
        self.names[symbol] = kind, name
        return write_node_id(kind, symbol)


def _write_step(step: Mapping[str, Any], name_of: NameOf) -> dict[str, Any]:
    """A whole number of minutes is written as one."""
    written = {**step, "config": _canonical(_with_name(step["config"], "templateId", name_of))}
    delay = written.get("delayMinutes")
    return {**written, "delayMinutes": int(delay)} if delay is not None and delay == int(delay) else written


def _with_name(written: Mapping[str, Any], key: str, name_of: NameOf) -> dict[str, Any]:
    """With the name of what `key` holds the id of, in the same place."""
    if key not in written:
        return dict(written)
    parsed = parse_node_id(written[key])
    if parsed is None:
        raise ValueError(f"{key} holds no node id")
    name = name_of(parsed.kind, parsed.uuid)
    return {_IDS[key] if each == key else each: name if each == key else value for each, value in written.items()}


def _canonical(value: Any) -> Any:
    """Members in the order in which they were written, but sorted by name where they are the client's own."""
    match value:
        case dict():
            return {key: _sorted(inner) if key in _FREE else _canonical(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_canonical(each) for each in value]
    return value


def _sorted(value: Any) -> Any:
    match value:
        case dict():
            return {key: _sorted(value[key]) for key in sorted(value)}
        case list() | tuple():
            return [_sorted(each) for each in value]
    return value


def _name_of(written: Mapping[str, Any]) -> str:
    return str(written["name"])


def _items(fields: Fields, key: str, problems: Problems) -> list[tuple[Mapping[str, Any], Path]]:
    """The objects of a list, with their paths; a name that comes again is refused."""
    given, path = fields.value(key), fields.at(key)
    if given is None:
        return []
    if not isinstance(given, list):
        problems.add(f"{key} must be a list.", path)
        return []
    if len(given) > MAX_WORKFLOWS:
        problems.add(f"A bundle has at most {MAX_WORKFLOWS:,} {key}.", path, code="LIMIT_EXCEEDED")
        return []
    found, holders = [], dict[str, int]()
    for index, each in enumerate(given):
        place = (*path, str(index))
        if not isinstance(each, Mapping):
            problems.add(f"Each of {key} must be an object.", place)
            continue
        name = each.get("name")
        if isinstance(name, str) and holders.setdefault(name, index) != index:
            problems.add(f"{quote(name)} is the name of {key}.{holders[name]} already.", (*place, "name"))
        found.append((each, place))
    return found


def _read_audience(given: Mapping[str, Any], path: Path, problems: Problems) -> BundleAudience | None:
    fields = Fields(given, path, problems, name="An audience", known=_AUDIENCE_KEYS)
    name = fields.needed_text("name", most=MAX_AUDIENCE_NAME_CHARACTERS)
    where = fields.value("where", needed=True)
    try:
        conditions = parse_conditions([] if where is None else where, roots=ROOTS, path=fields.at("where"))
    except InvalidCondition as error:
        problems.add(str(error), error.path)
        return None
    return BundleAudience(name, conditions, path)


def _read_workflow(
    given: Mapping[str, Any], path: Path, problems: Problems, symbols: _Symbols, egress: Egress
) -> BundleWorkflow | None:
    for key in _NEVER:
        if key in given:
            problems.add(f"{key} is not known here: a bundle goes by names.", (*path, key))
    is_active = given.get("isActive")
    if is_active is not None and not isinstance(is_active, bool):
        problems.add("isActive must be true or false.", (*path, "isActive"))
    written = {key: value for key, value in given.items() if key not in _NEVER}
    written["trigger"] = _with_id(given.get("trigger"), "audienceId", (*path, "trigger"), problems, symbols)
    if isinstance(given.get("steps"), list):
        written["steps"] = [
            _step_with_id(step, (*path, "steps", str(index)), problems, symbols)
            for index, step in enumerate(given["steps"])
        ]
    definition, errors = read_definition(written, egress=egress, path=path)
    problems.add_all(_in_words_of_bundles(error) for error in errors)
    return None if definition is None else BundleWorkflow(definition, is_active, path)


def _step_with_id(step: Any, path: Path, problems: Problems, symbols: _Symbols) -> Any:
    if not isinstance(step, Mapping) or not _sends_email(step.get("type")):
        return step
    return {**step, "config": _with_id(step.get("config"), "templateId", (*path, "config"), problems, symbols)}


def _sends_email(written: Any) -> bool:
    found = find_choice(written, StepType)
    if found is None and isinstance(written, str):
        found = STEP_TYPE_ALIASES.get(written.lower())
    return found is StepType.SEND_EMAIL


def _with_id(written: Any, key: str, path: Path, problems: Problems, symbols: _Symbols) -> Any:
    """With a symbol under `key` in the place of the name. What is no object is refused where it is read."""
    if not isinstance(written, Mapping):
        return written
    word, kind = _IDS[key], NodeKind.TEMPLATE if key == "templateId" else NodeKind.AUDIENCE
    kept = {each: value for each, value in written.items() if each not in (key, word)}
    if key in written:
        problems.add(f"{key} is not known here: give {word}, by its name.", (*path, key))
        return {**kept, key: symbols.of(kind, ANYTHING)}
    name = written.get(word)
    if name is None:
        return kept
    if not isinstance(name, str):
        problems.add(f"{word} must be a name.", (*path, word))
        return {**kept, key: symbols.of(kind, ANYTHING)}
    wrong = tuple(check_text(name, word, path=(*path, word), most=MAX_NAMED_CHARACTERS))
    problems.add_all(wrong)
    return {**kept, key: symbols.of(kind, ANYTHING if wrong else name)}


def _in_words_of_bundles(error: UserError) -> UserError:
    """What is said about an id is said about the name that stood there."""
    path = tuple(_IDS.get(part, part) for part in error.path)
    return UserError(_ID_WORDS.sub(lambda found: _IDS[found[1]], error.message), error.code, path)
