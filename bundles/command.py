"""The commands `bundle export`, `plan` and `apply`, and `documents publish`. `cli.py` adds them with `register(app)`.

Exit codes: 0 done, or nothing to do; 1 a mistake, and nothing was done; 2 of `plan`: there is something to do (as
`terraform plan -detailed-exitcode` has it); 130 interrupted.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from bundles.changes import Comparison
    from bundles.client import Client

MISTAKE, CHANGES, INTERRUPTED = 1, 2, 130

R = TypeVar("R")

Url = Annotated[str | None, typer.Option(help="The gateway; that of `make run` if absent.")]
Key = Annotated[str | None, typer.Option(envvar="SENDORA_API_KEY", help="API key; that of `make run` if absent.")]
File = Annotated[str, typer.Argument(help="A bundle; - for standard input.")]


class _Commands(TyperGroup):
    """Whose exit code for an option that does not exist is not the one for a plan with changes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):
                setattr(error, "exit_code", MISTAKE)  # noqa: B010 (its type is not typer's to give)
            raise


documents = typer.Typer(no_args_is_help=True, help="Trusted documents: what a client's requests name by hash.")
commands = typer.Typer(cls=_Commands, no_args_is_help=True, help="Workflows and audiences in a file, for git and CI.")


def register(app: typer.Typer) -> None:
    """Add `bundle` and `documents` to a command line."""
    app.add_typer(commands, name="bundle")
    app.add_typer(documents, name="documents")


@documents.callback()
def _documents() -> None:
    """So that its only command has a name, too."""


@commands.command("export")
def export_bundle(
    file: Annotated[str, typer.Argument(help="Where to; - for standard output.")] = "-",
    workflow: Annotated[
        list[str] | None, typer.Option(help="Name of one, with its audience; everything if absent.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write the project's workflows and audiences. The same content gives the same bytes."""
    from bundles.files import write_bundle

    def action(client: Client) -> None:
        write_bundle(file, asyncio.run(client.export(workflow or ())))

    _carry_out(action, url, key)


@commands.command("plan")
def plan_bundle(file: File, url: Url = None, key: Key = None) -> None:
    """Say what `apply` would do. Exit code 0: nothing; 2: something."""
    comparison = _bring(file, url, key, is_dry_run=True)
    if comparison.changes:
        typer.echo(comparison.text())
    typer.echo(_summary(comparison, "to create", "to change"))
    if not comparison.is_empty:
        raise typer.Exit(CHANGES)


@commands.command("apply")
def apply_bundle(file: File, url: Url = None, key: Key = None) -> None:
    """Make it so: all of it, or nothing when something is wrong. Asks nothing."""
    comparison = _bring(file, url, key, is_dry_run=False)
    for change in comparison.changes:
        if change.mark != "=":
            typer.echo(f"{change.mark} {change.title}")
    typer.echo(_summary(comparison, "created", "changed"))


@documents.command("publish")
def publish_documents(
    path: Annotated[Path, typer.Argument(help="A folder of .graphql files, or a manifest of Apollo's or Relay's.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Register a client's documents, byte for byte. Those that are there already stay."""
    from bundles.documents import read_documents

    def action(client: Client) -> int:
        found = read_documents(path)
        asyncio.run(client.publish(found))
        return len(found)

    typer.echo(f"documents: {_carry_out(action, url, key)}")


def _bring(file: str, url: str | None, key: str | None, *, is_dry_run: bool) -> Comparison:
    from bundles.changes import compare
    from bundles.files import read_bundle

    def action(client: Client) -> Comparison:
        bundle = read_bundle(file)
        return compare(*asyncio.run(client.bring(bundle, is_dry_run=is_dry_run)))

    return _carry_out(action, url, key)


def _carry_out(action: Callable[[Client], R], url: str | None, key: str | None) -> R:
    """A mistake becomes a sentence and an exit code."""
    from bundles.client import Client
    from bundles.errors import BundleMistakeError
    from importer.endpoint import find_endpoint
    from importer.errors import ImportMistakeError

    try:
        return action(Client(find_endpoint(url, key)))
    except (BundleMistakeError, ImportMistakeError) as error:
        sys.stderr.write(f"sendora: {error}\n")
        raise typer.Exit(MISTAKE) from None
    except KeyboardInterrupt:
        sys.stderr.write("sendora: interrupted. What was sent may have been done; doing it again changes nothing.\n")
        raise typer.Exit(INTERRUPTED) from None


def _summary(comparison: Comparison, created: str, changed: str) -> str:
    counts = (comparison.count("+"), created), (comparison.count("~"), changed), (comparison.count("="), "unchanged")
    return ", ".join(f"{count} {word}" for count, word in counts)
