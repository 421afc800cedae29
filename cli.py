"""The command line: run · serve · worker · migrate · create-project · add-member · bump-epoch · trim · reseal ·
rotate-signing-keys · verify-consent-log · schema, and what `importer/` and `bundles/` add: import · bundle.

Every command imports what it needs when it runs: `make run` starts several of these processes, and none of them waits
for the modules of another. An error that an operator can mend is one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

if TYPE_CHECKING:
    import asyncpg
    from pydantic import SecretStr

    from db.consent_changes import ChainEnd
    from engine.resealing import Resealed
    from settings import Settings

MISTAKE = 2
"""Exit code for what an operator can mend."""
STREAMS_GRACE_SECONDS = 2
"""How long a stopping gateway waits for open requests; the supervisor kills after 2.5 s."""
SUPERVISED_GRACE_SECONDS = 1.5
"""How long a stopping worker of `run` waits for sends under way; the supervisor kills after 2.5 s."""
LONGEST_SEQ_DIGITS = 18
"""Fewer than a bigint has."""
LONGEST_RETENTION_DAYS = 36_500
"""A hundred years: a longer time is a mistake."""

app = typer.Typer(help="Sendora Gateway.", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Supervised = Annotated[
    bool, typer.Option("--supervised", hidden=True, help="Begin when told through standard input, end with the parent.")
]


@app.command()
def run() -> None:
    """Everything on this machine; PostgreSQL and Redis too, unless DATABASE_URL and REDIS_URL name others."""
    from launch.supervisor import run as run_supervisor
    from settings import read_settings

    run_supervisor(read_settings())


@app.command()
def serve(
    fd: Annotated[int | None, typer.Option(help="Number of an inherited listening socket, instead of PORT.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of PORT.", min=1, max=65535)] = None,
    supervised: Supervised = False,
) -> None:
    """One gateway on DATABASE_URL and REDIS_URL."""
    settings = _read_deployment_settings(supervised=supervised)
    import uvicorn

    from app import create_app
    from transport.http.server import serve_config
    from transport.sse.forwarding import private_socket

    with private_socket() as private:
        asgi_app = create_app(settings, private_path=Path(private.getsockname()))
        if not _may_begin(supervised):
            return
        if not supervised:
            asyncio.run(_check_database(_given(settings.database_url)))
        with _listening_socket(settings, fd, port) as listener:
            config = serve_config(asgi_app, timeout_graceful_shutdown=STREAMS_GRACE_SECONDS)
            for number in (signal.SIGTERM, signal.SIGINT):
                # uvicorn handles both while it serves, and sends them again when all is closed: that is no failure
                signal.signal(number, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener, private])


@app.command()
def worker(supervised: Supervised = False) -> None:
    """One worker on DATABASE_URL and REDIS_URL. Any number of them may run."""
    settings = _read_deployment_settings(supervised=supervised)
    import uvloop

    import worker as _  # noqa: F401, while the services start

    if not _may_begin(supervised):
        return
    if not supervised:
        asyncio.run(_check_database(_given(settings.database_url)))
    uvloop.run(_run_worker(settings, supervised=supervised))


@app.command()
def migrate() -> None:
    """Bring the database of DATABASE_URL up to date."""
    from db.migrate import migrate as apply_migrations
    from launch.servers import check_postgres

    url = _database_url()
    asyncio.run(check_postgres(url))
    applied = asyncio.run(apply_migrations(url))
    typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@app.command()
def create_project(
    name: Annotated[str, typer.Argument(help="Name of the project.")],
    organization: Annotated[str, typer.Option(help="Name of the new organization that it belongs to.")] = "",
    region: Annotated[str, typer.Option(help="us or eu, for ever: SENDORA_REGION if absent, and nothing else.")] = "",
) -> None:
    """Make an organization with one project, and print its first keys, which are shown only this once."""
    import msgspec

    from launch.first_start import make_project
    from settings import read_settings

    url = _database_url()
    asyncio.run(_check_database(url))
    here = read_settings().region.value
    making = make_project(
        url, region=region or here, deployment_region=here, name=name, organization=organization or name
    )
    keys = asyncio.run(making)
    typer.echo(msgspec.json.format(msgspec.json.encode(keys)))


@app.command()
def add_member(
    email: Annotated[str, typer.Argument(help="Address of the member.")],
    project: Annotated[UUID, typer.Option(help="Id of a project of the organization.")],
    role: Annotated[str, typer.Option(help="VIEWER, EDITOR or ADMIN, in all projects of the organization.")] = "ADMIN",
) -> None:
    """Add a member to a project's organization, such as its first, and print their token, which is shown only once."""
    url = _database_url()
    asyncio.run(_check_database(url))
    typer.echo(asyncio.run(_add_member(url, email, project, role)))


@app.command()
def bump_epoch() -> None:
    """After a restore, or a failover that lost a tail of the log: make every cursor given out so far expire."""
    url = _database_url()
    asyncio.run(_check_database(url))
    typer.echo(f"{asyncio.run(_advance_epochs(url))} projects")


@app.command()
def trim(
    older_than_days: Annotated[
        int, typer.Option(min=1, max=LONGEST_RETENTION_DAYS, help="Remove what was received longer ago than that.")
    ],
    project: Annotated[UUID | None, typer.Option(help="Id of the only project to do it to; all if absent.")] = None,
) -> None:
    """Remove old events. Cursors from before then expire; profiles and the counts of event types stay."""
    url = _database_url()
    asyncio.run(_check_database(url))
    removed, projects = asyncio.run(_trim(url, older_than_days, project))
    typer.echo(f"{removed} events of {projects} projects removed")


@app.command()
def reseal() -> None:
    """Seal all credentials anew under SENDORA_SECRET_KEY; SENDORA_PREVIOUS_SECRET_KEYS opens older ones."""
    from launch.data_folder import StartError

    settings = _read_deployment_settings(supervised=False)
    asyncio.run(_check_database(_given(settings.database_url)))
    done = asyncio.run(_reseal(settings))
    typer.echo(f"{done.resealed} sealed anew, {done.current} were already.")
    if done.lost:
        raise StartError(
            f"{done.lost} are sealed under another secret: add it to SENDORA_PREVIOUS_SECRET_KEYS and run this again, "
            "or give those credentials anew."
        )


@app.command()
def rotate_signing_keys(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Sign with it now; whatever the others signed is refused from then on.")
    ] = False,
) -> None:
    """Make the next key that access tokens are signed with. Without being asked, one is made every 30 days."""
    settings = _read_deployment_settings(supervised=False)
    asyncio.run(_check_database(_given(settings.database_url)))
    typer.echo(f"{asyncio.run(_rotate_signing_keys(settings, at_once=at_once))} made")


@app.command()
def verify_consent_log(
    project: Annotated[UUID | None, typer.Option(help="Id of the only project to look at; all if absent.")] = None,
    noted: Annotated[
        str | None,
        typer.Option(metavar="SEQ:HASH", help="Where the project's log ended once, as an earlier run of this said."),
    ] = None,
) -> None:
    """Walk the log of consent and say where it ends, or where it was altered (exit code 1)."""
    from launch.data_folder import StartError

    url = _database_url()
    end = None if noted is None else _chain_end(noted)
    if end is not None and project is None:
        raise StartError("--noted is of one project: say which with --project.")
    asyncio.run(_check_database(url))
    lines, is_sound = asyncio.run(_verify_consent_log(url, project, end))
    typer.echo("\n".join(lines))
    if not is_sound:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the schema (SDL)."""
    from schema import print_sdl

    typer.echo(print_sdl(), nl=False)


def main() -> None:
    """Run a command; an error that an operator can mend becomes a sentence."""
    from bundles.command import register as register_bundles
    from importer.command import register as register_import

    register_import(app)
    register_bundles(app)
    try:
        app()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        sys.stderr.write(f"sendora: {sentence}\n")
        sys.exit(MISTAKE)


def _sentence(error: Exception) -> str | None:
    """What to tell the operator; None for an error that is ours."""
    module = type(error).__module__
    if (module, type(error).__name__) in {
        ("settings", "SettingsError"),
        ("launch.data_folder", "StartError"),
        ("launch.embedded", "EmbeddedError"),
        ("db.migrate", "MigrationError"),
        ("engine.provisioning", "WrongRegion"),
    }:
        return str(error)
    if "--supervised" in sys.argv and os.environ.get("SENDORA_LOG_LEVEL", "").lower() != "debug":
        return _brief(error)  # it is tried again and again: the whole traceback each time would drown the rest
    return None


def _brief(error: Exception) -> str:
    """An error of ours in one line; SENDORA_LOG_LEVEL=debug gives the traceback."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"


async def _reseal(settings: Settings) -> Resealed:
    from db.database import Database
    from engine.resealing import reseal_everything
    from settings import vault_of

    database = Database(_given(settings.database_url), min_size=1, max_size=1, application_name="sendora-reseal")
    await database.connect()
    try:
        return await reseal_everything(database, vault_of(settings))
    finally:
        await database.disconnect()


async def _rotate_signing_keys(settings: Settings, *, at_once: bool) -> str:
    from db.database import Database
    from db.heads import read_clock
    from engine.accounts.signing_keys import rotate_signing_keys
    from settings import vault_of

    database = Database(_given(settings.database_url), min_size=1, max_size=1, application_name="sendora-keys")
    await database.connect()
    try:
        async with database.connection() as connection:
            now = await read_clock(connection)
        return await rotate_signing_keys(database, vault_of(settings), now=now, at_once=at_once)
    finally:
        await database.disconnect()


async def _add_member(url: str, email: str, project_id: UUID, role: str) -> str:
    """The token of somebody who was just added."""
    from datetime import UTC, datetime

    from db.database import Database
    from db.projects import read_project
    from db.records import SYSTEM_PROJECT
    from engine.audit import OPERATOR, Audit
    from engine.errors import UserError
    from engine.identity import Role
    from engine.members import add_member
    from launch.data_folder import StartError

    if role not in Role.__members__:
        raise StartError(f"There is no role {role}: correct --role.")
    database = Database(url, min_size=1, max_size=1, application_name="sendora-add-member")
    await database.connect()
    try:
        async with database.transaction() as connection:
            project = None if project_id == SYSTEM_PROJECT else await read_project(connection, project_id=project_id)
            if project is None:
                raise StartError(f"There is no project {project_id}: correct --project.")
            audit = Audit(OPERATOR, datetime.now(UTC))
            made = await add_member(connection, audit, project=project, email=email, role=Role[role])
    finally:
        await database.disconnect()
    if isinstance(made, UserError):
        raise StartError(made.message)
    return made.first.token


async def _advance_epochs(url: str) -> int:
    """Every project of the database, in one transaction; how many, the system's own not counted.

    That one too: its new epoch is what makes running gateways read again which keys are revoked.
    """
    import asyncpg

    from db.heads import advance_epoch
    from db.records import SYSTEM_PROJECT

    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            projects = await _project_ids(connection)
            for project_id in sorted([*projects, SYSTEM_PROJECT]):
                await advance_epoch(connection, project_id=project_id)
    finally:
        await connection.close()
    return len(projects)


async def _trim(url: str, days: int, project_id: UUID | None) -> tuple[int, int]:
    """How many events of how many projects were removed. Revocations, in the system's own project, are never old."""
    from db.database import Database
    from engine.retention import trim_project
    from launch.data_folder import StartError

    database = Database(url, min_size=1, max_size=1, application_name="sendora-trim")
    await database.connect()
    removed = 0
    try:
        async with database.connection() as connection:
            known = await _project_ids(connection)
        if project_id is not None and project_id not in known:
            raise StartError(f"There is no project {project_id}: correct --project.")
        projects = known if project_id is None else [project_id]
        for each in projects:
            removed += await trim_project(database, project_id=each, older_than=timedelta(days=days))
    finally:
        await database.disconnect()
    return removed, len(projects)


async def _verify_consent_log(url: str, project_id: UUID | None, noted: ChainEnd | None) -> tuple[list[str], bool]:
    """A line for each project that has a log, or is asked for; whether all of them hold."""
    import asyncpg

    from db.consent_changes import find_projects_with_consent
    from engine.consent_log import Broken, verify

    connection = await asyncpg.connect(url, timeout=10, server_settings={"application_name": "sendora-verify"})
    try:
        found = await find_projects_with_consent(connection, project_id=project_id)
        lines, is_sound = [], True
        for each in found if project_id is None else [project_id]:
            result = await verify(connection, project_id=each, anchor=noted)
            is_sound &= not isinstance(result, Broken)
            lines.append(f"{each}: {result}")
    finally:
        await connection.close()
    return lines or ["no project has a log of consent yet"], is_sound


def _chain_end(text: str) -> ChainEnd:
    from db.consent_changes import ChainEnd
    from launch.data_folder import StartError

    seq, _, digest = text.partition(":")
    if not seq.isascii() or not seq.isdecimal() or len(seq) > LONGEST_SEQ_DIGITS:
        raise StartError("--noted is malformed: give SEQ:HASH as this command printed it.")
    try:
        return ChainEnd(int(seq), bytes.fromhex(digest))
    except ValueError:
        raise StartError("--noted is malformed: give SEQ:HASH as this command printed it.") from None


async def _project_ids(connection: asyncpg.Connection) -> list[UUID]:
    """All projects but the system's own, in the order in which heads are locked."""
    from datetime import UTC, datetime

    from db.heads import read_changed_heads
    from db.records import SYSTEM_PROJECT

    heads = await read_changed_heads(connection, changed_after=datetime.min.replace(tzinfo=UTC))
    return sorted({head.project_id for head in heads} - {SYSTEM_PROJECT})


async def _run_worker(settings: Settings, *, supervised: bool) -> None:
    """Until SIGTERM or SIGINT: what is under way is finished, the rest given back, then everything is closed."""
    from worker import STOP_GRACE, WorkerProcess

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    grace = timedelta(seconds=SUPERVISED_GRACE_SECONDS) if supervised else STOP_GRACE
    await WorkerProcess(settings).run(stop, grace=grace)


def _given(value: SecretStr | None) -> str:
    if value is None:
        raise RuntimeError("_read_deployment_settings() comes first")
    return value.get_secret_value()


def _may_begin(supervised: bool) -> bool:
    if not supervised:
        return True
    from launch.processes import wait_for_go

    return wait_for_go()


def _read_deployment_settings(*, supervised: bool) -> Settings:
    """Settings of a process that is one of several: the servers and the secret come from outside."""
    from launch.data_folder import StartError
    from settings import read_settings
    from telemetry import configure_logging

    settings = read_settings()
    for name, value, example in (
        ("DATABASE_URL", settings.database_url, "postgresql://user:password@host/database"),
        ("REDIS_URL", settings.redis_url, "redis://host:6379/0"),
        ("SENDORA_SECRET_KEY", settings.secret_key, "the output of `openssl rand -hex 32`"),
    ):
        if value is None:
            raise StartError(f"{name} is not set: give it, e.g. {example}, or use `make run`, which makes one.")
    configure_logging(settings.log_level, machine_readable=False if supervised else None)
    return settings


def _database_url() -> str:
    from launch.data_folder import StartError
    from settings import read_settings

    url = read_settings().database_url
    if url is None:
        raise StartError("DATABASE_URL is not set: give it, e.g. postgresql://user:password@host/database.")
    return url.get_secret_value()


async def _check_database(url: str) -> None:
    """Raises `StartError` unless a PostgreSQL answers there that has been migrated."""
    from db.migrate import read_missing
    from launch.data_folder import StartError
    from launch.servers import check_postgres

    await check_postgres(url)
    missing = await read_missing(url)
    if missing:
        raise StartError(f"The database is {len(missing)} migrations behind: run `migrate` first.")


def _listening_socket(settings: Settings, fd: int | None, port: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=os.dup(fd))
    from launch.supervisor import listen

    return listen(settings.host, port or settings.port)


if __name__ == "__main__":
    main()
