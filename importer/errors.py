"""Why an import cannot start or go on. Each is a sentence for whoever typed the command."""

from __future__ import annotations


class ImportMistakeError(Exception):
    """Nothing can be imported like this: the file, an option, the address or the key is wrong. Says how to mend it."""


class BrokenSourceError(Exception):
    """The file cannot be read further. What came before is imported all the same."""


class RowError(Exception):
    """One row cannot become an event. Its text completes the sentence `line 17: …`."""
