"""Reading objects that clients wrote, key by key. Everything that is wrong is gathered, each with its exact path.

A key that is null is as good as absent. A key that nobody knows is refused with the nearest one that is known, and the
one that it seems to be meant for is not reported missing besides. What is refused is read as None or as `ANYTHING`: the
caller looks at `Problems.found` before it uses what was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

from engine.errors import UserError
from engine.push.texts import check_text
from engine.templates.liquid import check_template

Path = tuple[str, ...]

ANYTHING = "…"
"""In the place of a text that was needed and could not be read."""

MAX_SUGGESTED_FROM = 100
"""Characters of a misspelt word: longer ones are no word, and comparing them takes long."""
MAX_QUOTED = 60
"""Characters of a word that a message repeats."""
MAX_PROBLEMS = 100
"""Of one workflow: more help nobody."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class Problems:
    """What is wrong with one input, in the order in which it was found."""

    def __init__(self) -> None:
        self.found: list[UserError] = []

    def add(self, message: str, path: Path, *, code: str = "INVALID") -> None:
        """One more, unless there are many already."""
        self.add_all((UserError(message, code, path),))

    def add_all(self, errors: Iterable[UserError]) -> None:
        """More, unless there are many already."""
        room = MAX_PROBLEMS - len(self.found)
        self.found += [_writable(error) for error in islice(errors, room)]


class Fields:
    """One object. `name` is what it is called in messages; `known` are its keys, in the order to list them; `aliases`
    are older names of keys, which count where the present one is not given too."""

    def __init__(
        self,
        given: Mapping[str, Any],
        path: Path,
        problems: Problems,
        *,
        name: str,
        known: tuple[str, ...],
        aliases: Mapping[str, str] = {},
    ) -> None:
        self.path = path
        self.problems = problems
        self.name = name
        self._written = {key: alias for alias, key in aliases.items() if alias in given and key not in given}
        given = {aliases[key] if key in self._written.values() else key: value for key, value in given.items()}
        self._given = {key: value for key, value in given.items() if value is not None and key in known}
        self._meant = {self._refuse(str(key), known) for key in given if key not in known}

    def has(self, key: str) -> bool:
        """Whether it was given."""
        return key in self._given

    def meant(self, key: str) -> bool:
        """Whether it was given, be it misspelt."""
        return key in self._given or key in self._meant

    def at(self, key: str) -> Path:
        """Where the value of a key is, under the name that it has there."""
        return (*self.path, self._written.get(key, key))

    def value(self, key: str, *, needed: bool = False) -> Any:
        """As it is; None without one."""
        value = self._given.get(key)
        if needed and not self.meant(key):
            self.problems.add(f"{self.name} needs {key}.", self.at(key))
        return value

    def text(self, key: str, *, most: int | None = None) -> str | None:
        """A text, not empty, of at most `most` characters."""
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.problems.add(f"{key} must be a string.", self.at(key))
            return None
        if not value.strip():
            self.problems.add(f"{key} is empty: give it a text, or leave it out.", self.at(key))
        elif most is not None:
            self.problems.add_all(check_text(value, key, path=self.at(key), most=most))
        return value

    def remark(self, key: str, *, most: int) -> str | None:
        """A text for people; an empty one is as good as none."""
        return None if self._given.get(key) == "" else self.text(key, most=most)

    def needed_text(self, key: str, *, most: int | None = None) -> str:
        """A text that has to be there."""
        self.value(key, needed=True)
        text = self.text(key, most=most)
        return ANYTHING if text is None else text

    def template(self, key: str, *, most: int | None = None) -> str | None:
        """A text with Liquid in it, perhaps."""
        text = self.text(key, most=most)
        self.check_templates(text, self.at(key))
        return text

    def needed_template(self, key: str) -> str:
        """A text with Liquid in it, perhaps, that has to be there."""
        text = self.needed_text(key)
        self.check_templates(text, self.at(key))
        return text

    def flag(self, key: str) -> bool:
        """True or false; false when it is absent."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            self.problems.add(f"{key} must be true or false.", self.at(key))
        return value is True

    def integer(self, key: str) -> int | None:
        """A whole number."""
        value = self.value(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.problems.add(f"{key} must be a whole number.", self.at(key))
        return None

    def choice(self, key: str, choices: type[_Choice], *, needed: bool = True) -> _Choice | None:
        """One of some words, in any case."""
        value = self.value(key, needed=needed)
        if value is None:
            return None
        found = find_choice(value, choices)
        if found is None:
            words = [choice.value for choice in choices]
            self.problems.add(f"{key} must be one of {', '.join(words)}{hint(value, words)}.", self.at(key))
        return found

    def object(self, key: str, *, needed: bool = False) -> dict[str, Any] | None:
        """An object."""
        value = self.value(key, needed=needed)
        if value is None or isinstance(value, dict):
            return value
        self.problems.add(f"{key} must be an object.", self.at(key))
        return None

    def check_templates(self, value: Any, path: Path) -> None:
        """Every text in a value is a Liquid template."""
        for text, place in texts_in(value, path):
            sentence = check_template(text)
            if sentence is not None:
                self.problems.add(sentence, place)

    def _refuse(self, key: str, known: tuple[str, ...]) -> str | None:
        near = nearest(key, known)
        meant = f"did you mean {near}?" if near is not None else f"use {', '.join(known) or 'none'}."
        self.problems.add(f"{quote(key)} is not known here: {meant}", (*self.path, key))
        return near


def texts_in(value: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """Every string in a JSON value but the names of members, with its path."""
    match value:
        case str():
            yield value, path
        case dict():
            for key, member in value.items():
                yield from texts_in(member, (*path, key))
        case list():
            for index, member in enumerate(value):
                yield from texts_in(member, (*path, str(index)))


def has_liquid(text: str) -> bool:
    """Whether a text may come out as something else than it is."""
    return "{{" in text or "{%" in text


def find_choice(value: Any, choices: type[_Choice]) -> _Choice | None:
    """A member by its value, in any case."""
    if not isinstance(value, str):
        return None
    return next((choice for choice in choices if choice.value.lower() == value.lower()), None)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that another one is most like; neither case nor underscores make a difference."""
    forms = {_form(each): each for each in known}
    found = get_close_matches(_form(word[:MAX_SUGGESTED_FROM]), list(forms), n=1, cutoff=0.6)
    return forms[found[0]] if found else None


def hint(word: Any, known: Iterable[str]) -> str:
    """The end of a message about a word that is none of those known: the nearest one, or nothing."""
    near = nearest(word, known) if isinstance(word, str) else None
    return "" if near is None else f"; the nearest is {near}"


def quote(word: str) -> str:
    """A word of a client's, for a message."""
    return word if len(word) <= MAX_QUOTED else f"{word[:MAX_QUOTED]}…"


def _writable(error: UserError) -> UserError:
    """What is quoted of the input may hold half of a surrogate pair, which no answer can."""
    path = tuple(_whole(key) for key in error.path)
    return UserError(_whole(error.message), error.code, path)


def _whole(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _form(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
