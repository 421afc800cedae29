"""What each type of step is configured with: from the JSON that clients write, and back into it.

Guarantees: what `read_config` gives can be run, and `unparse_config` gives what reads as the same again. Texts may hold
Liquid wherever a recipient could make a difference; bounds that the finished text has to keep (a push's, an address's
form) are checked here for texts without Liquid and when the step runs for all. Leaves to others: bounds of the whole,
targets of branches (`engine.workflows.validation`), and whether a template exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from db.filters import Condition, ConditionOperator
from engine.channels.webhook import MAX_HEADERS, METHODS, request_refusal
from engine.conditions import InvalidCondition, parse_conditions, unparse_conditions
from engine.dispatch.values import PushNotification
from engine.egress import Egress
from engine.node_ids import NodeKind, parse_node_id, write_node_id
from engine.push.content import PushPriority, check_notification
from engine.templates.texts import MAX_SUBJECT_CHARACTERS
from engine.workflows.definition import (
    END,
    AiAction,
    AiFlavor,
    Branch,
    BranchCondition,
    ConditionSource,
    SendEmail,
    SendPush,
    SendSms,
    StepConfig,
    StepType,
    Target,
    UpdateProfile,
    Wait,
    Webhook,
)
from engine.workflows.fields import ANYTHING, Fields, Path, Problems, has_liquid, hint, quote, texts_in

MAX_URL_CHARACTERS = 2048
MAX_REASON_CHARACTERS = 500
MAX_MODEL_CHARACTERS = 200
MAX_TARGET_CHARACTERS = 100
"""As many as a label has."""

ALIASES: Mapping[StepType, Mapping[str, str]] = {StepType.AI_ACTION: {"feature": "flavor"}}
"""Older name of a key → the one that is kept."""

KEYS: Mapping[StepType, tuple[str, ...]] = {
    StepType.SEND_EMAIL: ("to", "templateId", "subject", "bodyHtml", "bodyText", "from", "replyTo"),
    StepType.SEND_PUSH: (
        "title",
        "body",
        "data",
        "imageUrl",
        "sound",
        "badge",
        "collapseId",
        "ttlSeconds",
        "priority",
        "category",
        "threadId",
        "url",
        "ignoreQuietHours",
    ),
    StepType.SEND_SMS: ("to", "body"),
    StepType.WEBHOOK: ("url", "method", "headers", "body"),
    StepType.UPDATE_PROFILE: ("traits",),
    StepType.WAIT: ("reason",),
    StepType.BRANCH: ("condition", "ifTrue", "ifFalse"),
    StepType.AI_ACTION: ("flavor", "prompt", "model", "saveTo", "jsonMode"),
}
"""What each type takes."""

_PUSH_TEXTS = ("title", "body", "imageUrl", "sound", "collapseId", "category", "threadId", "url")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#{}]+(?=[/?#])")
"""What says where a URL leads, when Liquid comes after it only."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TESTED = tuple(ConditionSource)
_BRANCH_ROOTS = frozenset({"event", "profile", "run"})
_PREFIXES = {
    ConditionSource.TRAIT: "profile.traits.",
    ConditionSource.EVENT: "event.properties.",
    ConditionSource.PATH: "",
}


def read_config(
    step_type: StepType, given: Mapping[str, Any], path: Path, problems: Problems, egress: Egress
) -> StepConfig | None:
    """What a step is configured with; None when something is wrong, which `problems` then holds."""
    before = len(problems.found)
    fields = Fields(
        given,
        path,
        problems,
        name=step_type.value.lower(),
        known=KEYS[step_type],
        aliases=ALIASES.get(step_type, {}),
    )
    config = _read_webhook(fields, egress) if step_type is StepType.WEBHOOK else _READERS[step_type](fields)
    return config if len(problems.found) == before else None


def unparse_config(config: StepConfig) -> dict[str, Any]:
    """The config as JSON of the shape of its input, without what is absent."""
    written = _WRITERS[type(config)](config)
    return {name: value for name, value in written.items() if value is not None}


def condition_path(condition: BranchCondition) -> str:
    """What a branch's condition reads, as a path of the condition language; for EVENT, where it looks first."""
    return _PREFIXES[condition.source] + condition.name


def _read_email(fields: Fields) -> SendEmail:
    config = SendEmail(
        to=fields.needed_template("to"),
        subject=fields.template("subject", most=MAX_SUBJECT_CHARACTERS),
        body_html=fields.template("bodyHtml"),
        body_text=fields.template("bodyText"),
        from_address=fields.template("from"),
        reply_to=fields.template("replyTo"),
    )
    template_id = fields.value("templateId")
    texts = [key for key in ("subject", "bodyHtml", "bodyText") if fields.has(key)]
    if template_id is None:
        _check_texts(fields)
        return config
    if texts:
        fields.problems.add(f"Give templateId or {' and '.join(texts)}, not both.", fields.at("templateId"))
    parsed = parse_node_id(template_id) if isinstance(template_id, str) else None
    if parsed is None or parsed.kind is not NodeKind.TEMPLATE:
        fields.problems.add("templateId must be the node id of a template.", fields.at("templateId"))
        return config
    return msgspec.structs.replace(config, template_id=parsed.uuid)


def _check_texts(fields: Fields) -> None:
    """Without a template there is a subject, and a body at least."""
    if fields.meant("templateId"):
        return
    if not any(fields.meant(key) for key in ("subject", "bodyHtml", "bodyText")):
        fields.problems.add("send_email needs templateId, or subject and bodyHtml.", fields.path)
        return
    fields.value("subject", needed=True)
    if not fields.meant("bodyText"):
        fields.value("bodyHtml", needed=True)


def _write_email(config: SendEmail) -> dict[str, Any]:
    return {
        "to": config.to,
        "templateId": None if config.template_id is None else write_node_id(NodeKind.TEMPLATE, config.template_id),
        "subject": config.subject,
        "bodyHtml": config.body_html,
        "bodyText": config.body_text,
        "from": config.from_address,
        "replyTo": config.reply_to,
    }


def _read_push(fields: Fields) -> SendPush:
    for key in ("title", "body"):
        fields.value(key, needed=True)
    texts = {key: _push_text(fields, key) for key in _PUSH_TEXTS}
    data = fields.value("data")
    fields.check_templates(data, fields.at("data"))
    priority = fields.choice("priority", PushPriority, needed=False)
    push = PushNotification(
        title=texts["title"] or "",
        body=texts["body"] or "",
        data=data,
        image_url=texts["imageUrl"],
        sound=texts["sound"],
        badge=fields.integer("badge"),
        collapse_id=texts["collapseId"],
        ttl_seconds=fields.integer("ttlSeconds"),
        priority=None if priority is None else priority.value,
        category=texts["category"],
        thread_id=texts["threadId"],
        url=texts["url"],
    )
    if fields.has("title") and fields.has("body"):
        fields.problems.add_all(check_notification(_without_liquid(push), fields.path))
    return SendPush(push, ignore_quiet_hours=fields.flag("ignoreQuietHours"))


def _push_text(fields: Fields, key: str) -> str | None:
    """Title or body may be empty, so this asks for no more than a string."""
    value = fields.value(key)
    if value is not None and not isinstance(value, str):
        fields.problems.add(f"{key} must be a string.", fields.at(key))
        return None
    fields.check_templates(value, fields.at(key))
    return value


def _without_liquid(push: PushNotification) -> PushNotification:
    """The push with something short in the place of every text whose length is not known yet."""
    changed = {
        name: ANYTHING
        for name in ("title", "body", "image_url", "sound", "collapse_id", "category", "thread_id", "url")
        if has_liquid(getattr(push, name) or "")
    }
    if any(has_liquid(text) for text, _ in texts_in(push.data, ())):
        changed["data"] = ANYTHING
    return msgspec.structs.replace(push, **changed) if changed else push


def _write_push(config: SendPush) -> dict[str, Any]:
    written: dict[str, Any] = msgspec.to_builtins(config.push)
    return {**written, "ignoreQuietHours": config.ignore_quiet_hours or None}


def _read_sms(fields: Fields) -> SendSms:
    return SendSms(body=fields.needed_template("body"), to=fields.template("to"))


def _write_sms(config: SendSms) -> dict[str, Any]:
    return {"to": config.to, "body": config.body}


def _read_webhook(fields: Fields, egress: Egress) -> Webhook:
    url = fields.needed_text("url", most=MAX_URL_CHARACTERS)
    if isinstance(fields.value("url"), str):
        _check_url(url, fields, egress)
    method = fields.text("method")
    if method is not None and method.upper() not in METHODS:
        methods = sorted(METHODS)
        fields.problems.add(f"method must be one of {', '.join(methods)}{hint(method, methods)}.", fields.at("method"))
    body = fields.value("body")
    fields.check_templates(body, fields.at("body"))
    return Webhook(url=url, method=(method or "POST").upper(), headers=_read_headers(fields), body=body)


def _check_url(url: str, fields: Fields, egress: Egress) -> None:
    """A URL that begins with Liquid is looked at when the step runs; one that ends with it, as far as it is known."""
    fields.check_templates(url, fields.at("url"))
    known = url
    if has_liquid(url):
        origin = _ORIGIN.match(url)
        if origin is None:
            return
        known = f"{origin.group()}/"
    refusal = egress.refusal(known)
    if refusal is not None:
        fields.problems.add(refusal, fields.at("url"), code="BLOCKED_URL")


def _read_headers(fields: Fields) -> dict[str, str]:
    headers = fields.object("headers") or {}
    if len(headers) > MAX_HEADERS:
        fields.problems.add(f"There are at most {MAX_HEADERS} headers.", fields.at("headers"), code="LIMIT_EXCEEDED")
        return {}
    for name, value in headers.items():
        path = (*fields.at("headers"), name)
        if not isinstance(value, str):
            fields.problems.add("A header must be a string.", path)
            continue
        fields.check_templates(value, path)
        refusal = request_refusal("POST", {name: "" if has_liquid(value) else value})
        if refusal is not None:
            fields.problems.add(refusal, path)
    return headers


def _write_webhook(config: Webhook) -> dict[str, Any]:
    return {
        "url": config.url,
        "method": config.method,
        "headers": config.headers or None,
        "body": config.body,
    }


def _read_traits(fields: Fields) -> UpdateProfile:
    traits = fields.object("traits", needed=True) or {}
    if not traits and fields.has("traits"):
        fields.problems.add("traits is empty: name at least one trait.", fields.at("traits"))
    fields.check_templates(traits, fields.at("traits"))
    return UpdateProfile(traits)


def _write_traits(config: UpdateProfile) -> dict[str, Any]:
    return {"traits": config.traits}


def _read_wait(fields: Fields) -> Wait:
    reason = fields.remark("reason", most=MAX_REASON_CHARACTERS)
    fields.check_templates(reason, fields.at("reason"))
    return Wait(reason)


def _write_wait(config: Wait) -> dict[str, Any]:
    return {"reason": config.reason}


def _read_branch(fields: Fields) -> Branch:
    condition = fields.object("condition", needed=True)
    return Branch(
        condition=_NOT_READ if condition is None else _read_condition(condition, fields),
        if_true=_needed_target(fields, "ifTrue"),
        if_false=_needed_target(fields, "ifFalse"),
    )


_NOT_READ = BranchCondition(ConditionSource.PATH, ANYTHING, ConditionOperator.EXISTS)


def _read_condition(given: Mapping[str, Any], outer: Fields) -> BranchCondition:
    # A null to compare with is a value, so that it can be told from none.
    tests_null = "value" in given and given["value"] is None
    fields = Fields(given, outer.at("condition"), outer.problems, name="A condition", known=(*_TESTED, "op", "value"))
    sources = [source for source in _TESTED if fields.has(source)]
    if len(sources) != 1:
        fields.problems.add("A condition has exactly one of trait, event and path.", fields.path)
        return _NOT_READ
    operator = _read_operator(fields)
    name = fields.needed_text(sources[0])
    if operator is None or not isinstance(fields.value(sources[0]), str):
        return _NOT_READ
    value = fields.value("value")
    read = BranchCondition(sources[0], name, operator.value, value)
    _check_test(read, has_value=tests_null or value is not None, fields=fields)
    fields.check_templates(value, fields.at("value"))
    return read


def _read_operator(fields: Fields) -> ConditionOperator | None:
    if not fields.has("op"):
        return ConditionOperator.EQ
    return fields.choice("op", ConditionOperator)


def _check_test(condition: BranchCondition, *, has_value: bool, fields: Fields) -> None:
    """By the rules of the condition language; what it says about its own path is said about ours."""
    test = {"path": condition_path(condition), "op": condition.op}
    if has_value:
        test["value"] = condition.value
    try:
        parse_conditions([test], roots=_BRANCH_ROOTS, path=fields.path)
    except InvalidCondition as error:
        reason = str(error).removeprefix(f"{'.'.join(error.path)} ")
        key = str(condition.source) if error.path[-1] == "path" else error.path[-1]
        fields.problems.add(f"{key} {reason}", fields.at(key))


def read_target(fields: Fields, key: str, *, needed: bool = False) -> Target | None:
    """A label, an index or `end`. Whether there is such a step is looked at once all labels are known."""
    value = fields.value(key, needed=needed)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TARGET_CHARACTERS:
        fields.problems.add(f"{key} must be the label or the index of a step, or end.", fields.at(key))
        return None
    return value


def _needed_target(fields: Fields, key: str) -> Target:
    target = read_target(fields, key, needed=True)
    return END if target is None else target


def _write_branch(config: Branch) -> dict[str, Any]:
    tested = config.condition
    [written] = unparse_conditions([Condition(path=tested.name, op=tested.op, value=tested.value)])
    del written["path"]
    return {
        "condition": {str(tested.source): tested.name, **written},
        "ifTrue": config.if_true,
        "ifFalse": config.if_false,
    }


def _read_ai(fields: Fields) -> AiAction:
    save_to = fields.text("saveTo")
    if save_to is not None and _VARIABLE.fullmatch(save_to) is None:
        message = f"{quote(save_to)} cannot name a variable: use letters, digits and _, and begin with no digit."
        fields.problems.add(message, fields.at("saveTo"))
    return AiAction(
        flavor=fields.choice("flavor", AiFlavor) or AiFlavor.GENERATE,
        prompt=fields.needed_template("prompt"),
        model=fields.text("model", most=MAX_MODEL_CHARACTERS),
        save_to=save_to,
        json_mode=fields.flag("jsonMode"),
    )


def _write_ai(config: AiAction) -> dict[str, Any]:
    return {
        "flavor": config.flavor.value,
        "prompt": config.prompt,
        "model": config.model,
        "saveTo": config.save_to,
        "jsonMode": config.json_mode or None,
    }


_READERS: Mapping[StepType, Callable[[Fields], StepConfig]] = {
    StepType.SEND_EMAIL: _read_email,
    StepType.SEND_PUSH: _read_push,
    StepType.SEND_SMS: _read_sms,
    StepType.UPDATE_PROFILE: _read_traits,
    StepType.WAIT: _read_wait,
    StepType.BRANCH: _read_branch,
    StepType.AI_ACTION: _read_ai,
}

_WRITERS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    SendEmail: _write_email,
    SendPush: _write_push,
    SendSms: _write_sms,
    Webhook: _write_webhook,
    UpdateProfile: _write_traits,
    Wait: _write_wait,
    Branch: _write_branch,
    AiAction: _write_ai,
}
