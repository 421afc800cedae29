"""One question to a server that speaks Ollama's HTTP API: `POST {base_url}/api/chat`, answered in one piece.

Guarantees: never raises for what the server or the network does; reads no more than `MAX_ANSWER_BYTES`; an answer is
text that can be stored, without what a model thinks aloud before it. Neither prompt nor answer is in a log or in a
refusal. Leaves to others: the guard (`engine.channels.http`), asking again, and what an answer means.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec

from engine.ai.prompts import system_prompt, wants_json
from engine.channels.http import HttpAnswer, HttpClient, HttpFailure
from engine.workflows.definition import AiFlavor
from engine.workflows.state import AskModel, ModelAnswer, ModelLate

MAX_ANSWER_BYTES = 256 * 1024
"""Of the whole answer as JSON; four times of what the variables of a run may hold."""
MAX_TOKENS = 4_096
"""That a model may write, what it thinks included: about ten pages, so that one that rambles ends."""
MAX_NAMED_CHARACTERS = 64
"""Of a model's name, in a sentence."""

_LATE = frozenset({408, 429, 503, 504})
"""Too busy, or still loading the model: the same question may be answered later."""
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
"""Older servers leave it in front of the answer."""
_ESCAPED_NUL = re.compile(r"\\u0000")


class OllamaAccount(msgspec.Struct, frozen=True):
    """Where to ask, and for which model unless the step names another."""

    base_url: str
    model: str
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"OllamaAccount(base_url={self.base_url}, model={self.model})"


class Refusal(msgspec.Struct, frozen=True):
    """The question has no answer. `is_account`: nor has any other, until somebody sets the provider right."""

    reason: str
    is_account: bool = False


Reply: TypeAlias = ModelAnswer | ModelLate | Refusal


class _Message(msgspec.Struct, frozen=True):
    content: str


class _Chat(msgspec.Struct, frozen=True):
    """What of an answer counts."""

    message: _Message
    done: bool


_read_chat = msgspec.json.Decoder(_Chat).decode

_NOT_OLLAMA = Refusal(
    "What came back is not an answer of Ollama's API: check baseUrl, which /api/chat is added to.", is_account=True
)
_TOO_LONG = Refusal(f"The model's answer has more than {MAX_ANSWER_BYTES // 1024} KiB.")
_KEY_REFUSED = Refusal("The model server refused the API key: check secrets.apiKey of the provider.", is_account=True)


async def ask_ollama(http: HttpClient, account: OllamaAccount, asked: AskModel, *, within: timedelta) -> Reply:
    """One question. What takes longer than `within` is late."""
    clock = asyncio.get_running_loop().time
    ends_at = clock() + within.total_seconds()
    answer = await http.request(
        "POST",
        f"{account.base_url}/api/chat",
        headers=_headers(account),
        body=msgspec.json.encode(_question(account, asked)),
        max_body=MAX_ANSWER_BYTES,
        within=within,
    )
    if isinstance(answer, HttpFailure):
        return _failed(answer)
    if answer.status in _LATE:
        return ModelLate()
    if answer.status >= 300:
        return _refused(answer.status, asked.model or account.model, is_own=asked.model is None)
    return _read(answer, is_cut_off=clock() >= ends_at)


def _headers(account: OllamaAccount) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    return headers if account.api_key is None else {**headers, "Authorization": f"Bearer {account.api_key}"}


def _question(account: OllamaAccount, asked: AskModel) -> dict[str, Any]:
    question: dict[str, Any] = {
        "model": asked.model or account.model,
        "messages": [
            {"role": "system", "content": system_prompt(asked)},
            {"role": "user", "content": asked.prompt},
        ],
        "stream": False,
        "options": _options(asked),
    }
    return {**question, "format": "json"} if wants_json(asked) else question


def _options(asked: AskModel) -> dict[str, Any]:
    """What is decided or extracted is not to differ from one time to the next."""
    options: dict[str, Any] = {"num_predict": MAX_TOKENS}
    return options if asked.flavor is AiFlavor.GENERATE else {**options, "temperature": 0}


def _failed(failure: HttpFailure) -> Reply:
    if failure.code == "TIMEOUT":
        return ModelLate()
    return Refusal(f"The model server could not be asked: {failure.message}", is_account=True)


def _refused(status: int, model: str, *, is_own: bool) -> Refusal:
    """`is_own`: the model is the one of the provider's settings."""
    if status in (401, 403):
        return _KEY_REFUSED
    if status == 404:
        named = repr(model[:MAX_NAMED_CHARACTERS])
        return Refusal(f"The model server has no model {named}: pull it there, or name another.", is_account=is_own)
    return Refusal(f"The model server refused the question with HTTP {status}.")


def _read(answer: HttpAnswer, *, is_cut_off: bool) -> Reply:
    try:
        chat = _read_chat(answer.body)
    except (msgspec.DecodeError, UnicodeError):
        if is_cut_off:
            return ModelLate()
        return _TOO_LONG if len(answer.body.encode()) >= MAX_ANSWER_BYTES else _NOT_OLLAMA
    return ModelAnswer(_storable(chat.message.content)) if chat.done else _NOT_OLLAMA


def _storable(text: str) -> str:
    """Without the thoughts in front, and without NUL, which PostgreSQL stores neither in text nor in JSON."""
    return _ESCAPED_NUL.sub(r"\\ufffd", _THOUGHT.sub("", text, count=1).replace("\0", "\ufffd"))
