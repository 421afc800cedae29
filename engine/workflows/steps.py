"""What one step comes to: its configuration filled in for one run, looked at by the policies of its channel. Pure.

Guarantees: the policies that sends go through (consent, suppressed addresses, verified senders, devices, quiet hours,
caps) are asked here, so that what cannot leave makes no delivery; they are asked again when it is dispatched. A step
ends in one of these ways:

- it is done, or asks for what has to be done (effects), whose outcome is its own;
- what it needs is missing once its texts are filled in: SKIPPED_MISSING_CONFIG, and the run goes on;
- this person cannot be sent to: SUPPRESSED, BYOD_REQUIRED, or ERROR for an address that is none; the run goes on;
- the workflow itself has to be mended (a text that fails, a URL that is refused): ERROR, and `is_fatal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from engine.channels.base import Refuse
from engine.channels.webhook import request_refusal
from engine.consent import ConsentPurpose
from engine.contacts import Malformed, parse_email, parse_phone
from engine.dispatch.values import (
    DeliveryError,
    EmailContent,
    PushContent,
    PushNotification,
    SmsContent,
    SuppressedReason,
)
from engine.email.policy import texts_of
from engine.email.sender import BYOD_REQUIRED, NO_SENDER, decide_sender, read_mailbox
from engine.events import MAX_EVENT_BYTES
from engine.json_limits import find_problem
from engine.node_ids import NodeKind, write_node_id
from engine.push.content import check_notification
from engine.push.policy import HoldBack, PolicyCase
from engine.push.policy import decide as decide_push
from engine.sms.policy import MAX_TEXT_CHARACTERS, NOT_CONFIGURED
from engine.templates.liquid import CannotRender
from engine.workflows.conditions import branch_holds
from engine.workflows.definition import (
    AiAction,
    Branch,
    Definition,
    SendEmail,
    SendPush,
    SendSms,
    StepConfig,
    StepOutcome,
    UpdateProfile,
    Wait,
    Webhook,
)
from engine.workflows.graph import FINISHED, resolve_target
from engine.workflows.interpolation import Interpolator, shown
from engine.workflows.state import (
    AskModel,
    DeliverEmail,
    DeliverPush,
    DeliverSms,
    DeliverWebhook,
    Effect,
    MergeTraits,
    RunState,
)
from engine.workflows.surroundings import Surroundings, number_text, run_root, values_of

MAX_BODY_BYTES = 256 * 1024
"""Of a webhook's body: as much as a template makes."""
_PUSH_TEXTS = ("image_url", "sound", "collapse_id", "category", "thread_id", "url")
_SUPPRESSED: Mapping[SuppressedReason, str] = {
    SuppressedReason.CONSENT: "The person has not agreed to this channel.",
    SuppressedReason.ERASED: "The person is not there any more.",
    SuppressedReason.NO_TOKENS: "The person has no active device.",
    SuppressedReason.UNSUBSCRIBED: "The address has unsubscribed.",
    SuppressedReason.BOUNCED: "Mail to the address came back for good.",
    SuppressedReason.QUIET_HOURS: "It is quiet hours for the person.",
    SuppressedReason.FREQUENCY_CAP: "The person has got as many as the project's cap allows.",
    SuppressedReason.RATE_LIMITED: "The project has sent as many as it may.",
    SuppressedReason.BLOCKED_CONTENT: "The content looks like phishing.",
}


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step came to. `outcome` None: that of its effects. `goes_to` is where a branch leads."""

    input: Mapping[str, Any]
    outcome: StepOutcome | None = None
    detail: str | None = None
    output: Any = None
    effects: tuple[Effect, ...] = ()
    goes_to: int | None = None
    is_fatal: bool = False


class _Step(msgspec.Struct, frozen=True):
    """What running one step takes."""

    definition: Definition
    state: RunState
    around: Surroundings
    now: datetime
    fill: Interpolator


class _Ended(Exception):
    """The step ends here, without an effect."""

    def __init__(self, outcome: StepOutcome, detail: str, *, is_fatal: bool = False) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.is_fatal = is_fatal


def run_step(definition: Definition, state: RunState, around: Surroundings, now: datetime) -> StepResult:
    """What the step that the run is at comes to."""
    config = definition.steps[state.step].config
    given: dict[str, Any] = {}
    fill = Interpolator(values_of(definition, state, around, now))
    try:
        result = _STEPS[type(config)](config, _Step(definition, state, around, now, fill), given)
    except CannotRender as error:
        result = StepResult(input=given, outcome=StepOutcome.ERROR, detail=str(error), is_fatal=True)
    except _Ended as ended:
        result = StepResult(input=given, outcome=ended.outcome, detail=ended.detail, is_fatal=ended.is_fatal)
    return msgspec.structs.replace(
        result, input=shown(given), output=shown(result.output), detail=_with_missing(result.detail, fill.missing)
    )


def suppressed_detail(reason: SuppressedReason) -> str:
    """Why nothing was sent, in a sentence."""
    return f"{_SUPPRESSED[reason]} ({reason.value})"


def _with_missing(detail: str | None, missing: tuple[str, ...]) -> str | None:
    noted = f"Missing, and left empty: {', '.join(missing)}." if missing else None
    return " ".join(each for each in (detail, noted) if each is not None) or None


def _email(config: SendEmail, step: _Step, given: dict[str, Any]) -> StepResult:
    around, fill = step.around, step.fill
    to = given["to"] = fill.text(config.to).strip()
    sender = given["from"] = fill.optional(config.from_address)
    reply_to = given["replyTo"] = (fill.optional(config.reply_to) or "").strip() or None
    if config.template_id is not None:
        given["templateId"] = write_node_id(NodeKind.TEMPLATE, config.template_id)
    content = EmailContent(
        template_id=config.template_id,
        subject=config.subject,
        body_html=config.body_html,
        body_text=config.body_text,
        from_address=sender or None,
        reply_to=reply_to,
        vars={"run": run_root(step.definition, step.state)},
    )
    _fill_in_mail(content, step, given)
    _drop_absent(given)
    address = _address(parse_email(to), to)
    _check_held(step, ConsentPurpose.EMAIL, around.mail.held, address)
    if reply_to is not None and isinstance(malformed := read_mailbox(reply_to), Malformed):
        raise _Ended(StepOutcome.ERROR, f"replyTo: {malformed.message}")
    _check_sender(sender or None, around)
    return StepResult(input=given, effects=(DeliverEmail(address, content),))


def _fill_in_mail(content: EmailContent, step: _Step, given: dict[str, Any]) -> None:
    """What the mail will say, for the trace: its texts are rendered again when it is sent."""
    texts = texts_of(content, step.around.mail.templates)
    if isinstance(texts, Refuse):
        raise _Ended(StepOutcome.ERROR, _sentence(texts.error), is_fatal=True)
    given["subject"] = step.fill.text(texts.subject)
    html = given["bodyHtml"] = step.fill.optional(texts.html, html=True)
    text = given["bodyText"] = step.fill.optional(texts.text)
    if not (html or "").strip() and not (text or "").strip():
        _drop_absent(given)
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "The mail has no body for this person.")


def _check_sender(wanted: str | None, around: Surroundings) -> None:
    mail = around.mail
    decided = decide_sender(wanted, mail.default_from, mail.domains)
    if decided is BYOD_REQUIRED:
        raise _Ended(StepOutcome.BYOD_REQUIRED, _sentence(BYOD_REQUIRED))
    if decided is NO_SENDER or (not isinstance(decided, DeliveryError) and not mail.has_account):
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, _sentence(NO_SENDER))
    if isinstance(decided, DeliveryError):
        raise _Ended(StepOutcome.ERROR, _sentence(decided))


def _sms(config: SendSms, step: _Step, given: dict[str, Any]) -> StepResult:
    around = step.around
    to = given["to"] = number_text(config, step.fill, around)
    body = given["body"] = step.fill.text(config.body).strip()
    number = _address(parse_phone(to), to)
    if not body:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "The text is empty for this person.")
    if len(body) > MAX_TEXT_CHARACTERS:
        raise _Ended(
            StepOutcome.ERROR, f"The text has {len(body):,} characters; at most {MAX_TEXT_CHARACTERS:,} are sent."
        )
    _check_held(step, ConsentPurpose.SMS, around.sms.held, number)
    if not around.sms.has_account:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, _sentence(NOT_CONFIGURED))
    content = SmsContent(body=config.body, vars={"run": run_root(step.definition, step.state)})
    return StepResult(input=given, effects=(DeliverSms(number, content),))


def _push(config: SendPush, step: _Step, given: dict[str, Any]) -> StepResult:
    push = _fill_in_push(config.push, step.fill)
    given.update(msgspec.to_builtins(push), ignoreQuietHours=config.ignore_quiet_hours)
    user_id = _person(step)
    if not push.title.strip() and not push.body.strip():
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "Title and body are empty for this person.")
    problem = next(iter(check_notification(push, ())), None)
    if problem is not None:
        raise _Ended(StepOutcome.ERROR, problem.message, is_fatal=True)
    effect = DeliverPush(push, config.ignore_quiet_hours)
    decisions = decide_push(push_case(effect, step.around, user_id=user_id, now=step.now))
    if isinstance(decisions[0], HoldBack) and all(isinstance(each, HoldBack) for each in decisions):
        raise _Ended(StepOutcome.SUPPRESSED, suppressed_detail(decisions[0].reason))
    return StepResult(input=given, effects=(effect,))


def push_case(effect: DeliverPush, around: Surroundings, *, user_id: str, now: datetime) -> PolicyCase:
    """A push as its policy takes it."""
    return PolicyCase(
        content=PushContent(message_id=UUID(int=0), push=effect.push, ignore_quiet_hours=effect.ignore_quiet_hours),
        person=user_id,
        consent=around.consent(ConsentPurpose.PUSH),
        unknown_allowed=around.unknown_allowed,
        tokens=around.push.tokens,
        rules=around.push.rules,
        now=now,
        sent_in_hour=around.push.sent_in_hour,
        sent_in_day=around.push.sent_in_day,
    )


def _fill_in_push(push: PushNotification, fill: Interpolator) -> PushNotification:
    """An optional text that comes out empty is as good as none."""
    optional = {name: fill.optional(getattr(push, name)) or None for name in _PUSH_TEXTS}
    return msgspec.structs.replace(
        push, title=fill.text(push.title), body=fill.text(push.body), data=fill.value(push.data), **optional
    )


def _webhook(config: Webhook, step: _Step, given: dict[str, Any]) -> StepResult:
    fill = step.fill
    url = given["url"] = fill.text(config.url).strip()
    given["method"] = config.method
    headers = {name: fill.text(value) for name, value in config.headers.items()}
    if headers:
        given["headers"] = headers
    value = fill.value(config.body)
    if value is not None:
        given["body"] = value
    if not url:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "url is empty for this run.")
    refusal = step.around.refuse_url(url) or request_refusal(config.method, headers)
    if refusal is not None:
        raise _Ended(StepOutcome.ERROR, refusal, is_fatal=True)
    return StepResult(input=given, effects=(DeliverWebhook(url, config.method, headers, _body(value, step.around)),))


def _body(value: Any, around: Surroundings) -> str | None:
    """A string as it is, everything else as JSON; None for the event. Without one, the person."""
    if value is None:
        return None if around.event is not None else _json({"userId": around.user_id}, most=MAX_BODY_BYTES)
    if isinstance(value, str):
        if len(value.encode()) > MAX_BODY_BYTES:
            raise CannotRender(f"The body takes more than {MAX_BODY_BYTES // 1024} KiB.")
        return value
    return _json(value, most=MAX_BODY_BYTES)


def _update(config: UpdateProfile, step: _Step, given: dict[str, Any]) -> StepResult:
    traits = given["traits"] = step.fill.value(config.traits)
    _person(step)
    _json(traits, most=MAX_EVENT_BYTES)
    return StepResult(input=given, outcome=StepOutcome.OK, effects=(MergeTraits(traits),))


def _wait(config: Wait, step: _Step, given: dict[str, Any]) -> StepResult:
    reason = step.fill.optional(config.reason)
    if reason is not None:
        given["reason"] = reason
    return StepResult(input=given, outcome=StepOutcome.WAITED)


def _branch(config: Branch, step: _Step, given: dict[str, Any]) -> StepResult:
    tested, steps = config.condition, step.definition.steps
    value = step.fill.value(tested.value)
    given["condition"] = {str(tested.source): tested.name, "op": tested.op, "value": value}
    result = branch_holds(tested, value, step.around.subject(step.state, step.now))
    goes_to = resolve_target([each.label for each in steps], config.if_true if result else config.if_false)
    output = {"result": result, "next": "end" if goes_to == FINISHED else steps[goes_to].label}
    return StepResult(input=given, outcome=StepOutcome.BRANCHED, output=output, goes_to=goes_to)


def _ai(config: AiAction, step: _Step, given: dict[str, Any]) -> StepResult:
    given["flavor"] = config.flavor.value
    prompt = given["prompt"] = step.fill.text(config.prompt).strip()
    if config.model is not None:
        given["model"] = config.model
    if not prompt:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "The prompt is empty for this run.")
    return StepResult(input=given, effects=(AskModel(config.flavor, prompt, config.model, config.json_mode),))


def _person(step: _Step) -> str:
    """Whom the run is about. Somebody who was erased is not written back."""
    if step.around.user_id is None:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "The event that started the run names no person.")
    if step.around.profile is None:
        raise _Ended(StepOutcome.SUPPRESSED, suppressed_detail(SuppressedReason.ERASED))
    return step.around.user_id


def _address(parsed: str | Malformed, written: str) -> str:
    if not written:
        raise _Ended(StepOutcome.SKIPPED_MISSING_CONFIG, "to is empty for this person.")
    if isinstance(parsed, Malformed):
        raise _Ended(StepOutcome.ERROR, f"to: {parsed.message}")
    return parsed


def _check_held(step: _Step, purpose: ConsentPurpose, held: Mapping[str, str], address: str) -> None:
    """The person's consent is asked wherever the message goes: it is about them."""
    found = step.around.standings(purpose, held).held_back(step.around.user_id, address)
    if found is not None:
        raise _Ended(StepOutcome.SUPPRESSED, suppressed_detail(found.reason))


def _json(value: Any, *, most: int) -> str:
    """As JSON that can be stored. Raises `CannotRender`."""
    try:
        text = msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError, TypeError):
        raise CannotRender("What is filled in holds something that is no JSON.") from None
    problem = find_problem(text, most_bytes=most)
    if len(text) > most or problem is not None:
        raise CannotRender(problem.message if problem else f"What is filled in takes more than {most // 1024} KiB.")
    return text.decode()


def _sentence(error: DeliveryError) -> str:
    return error.message if error.hint is None else f"{error.message} {error.hint}"


def _drop_absent(given: dict[str, Any]) -> None:
    for name in [name for name, value in given.items() if value is None]:
        del given[name]


_STEPS: Mapping[type[StepConfig], Callable[[Any, _Step, dict[str, Any]], StepResult]] = {
    SendEmail: _email,
    SendPush: _push,
    SendSms: _sms,
    Webhook: _webhook,
    UpdateProfile: _update,
    Wait: _wait,
    Branch: _branch,
    AiAction: _ai,
}
