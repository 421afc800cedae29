"""What a model is told before it is asked, by what it is asked for. Pure.

Guarantees: for a decision the model is told to say yes or no and nothing else, which is how
`engine.workflows.transition` reads it; where JSON is wanted it is told so, because servers that are asked for JSON
without it being said write blanks for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.workflows.definition import AiFlavor
from engine.workflows.state import AskModel

_TASKS: Mapping[AiFlavor, str] = {
    AiFlavor.GENERATE: (
        "You write texts that a company sends to its customers. Answer with the finished text alone: no introduction, "
        "no explanation, no quotation marks around it."
    ),
    AiFlavor.DECIDE: "You decide a question. Answer with exactly one word, yes or no, and nothing else.",
    AiFlavor.EXTRACT: (
        "You extract data from a text. Answer with one JSON object that holds what is asked for, and nothing else. "
        "What the text does not say is null."
    ),
}
_AS_JSON = "Answer with valid JSON alone."


def wants_json(asked: AskModel) -> bool:
    """Whether the answer has to be JSON. A decision is a word, whatever else was configured."""
    return asked.flavor is AiFlavor.EXTRACT or (asked.json_mode and asked.flavor is not AiFlavor.DECIDE)


def system_prompt(asked: AskModel) -> str:
    """What goes before the prompt of the step."""
    task = _TASKS[asked.flavor]
    return f"{task} {_AS_JSON}" if wants_json(asked) else task
