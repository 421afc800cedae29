"""Checks of a PostgreSQL and a Redis that somebody else runs, before anything is started on them.

Each gives nothing, or a `StartError` with one sentence that says what is wrong and how to mend it; user names,
passwords and options of a URL never appear in it.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from launch.data_folder import StartError

CONNECT_TIMEOUT_SECONDS = 5.0
MIN_POSTGRES_VERSION = 15
MIN_REDIS_VERSION = (6, 2)


async def check_postgres(url: str) -> None:
    """Raises `StartError` unless a PostgreSQL that is new enough answers and lets us in."""
    import asyncpg

    place = f"PostgreSQL at {place_of(url, default_port=5432)}"
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_SECONDS)
    except asyncpg.InvalidCatalogNameError:
        raise StartError(
            f"{place} has no database of that name: create it with createdb, or correct DATABASE_URL."
        ) from None
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError):
        raise StartError(f"{place} refused the user name or password: correct them in DATABASE_URL.") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise StartError(f"{place} cannot be reached ({_reason(error)}): start it, or correct DATABASE_URL.") from None
    try:
        version = connection.get_server_version()
    finally:
        connection.terminate()  # closing in order would wait for a server that may not answer any more
    if version.major < MIN_POSTGRES_VERSION:
        raise StartError(
            f"{place} is version {version.major}, and {MIN_POSTGRES_VERSION} or newer is needed: "
            "upgrade it, or point DATABASE_URL at a newer one."
        )


async def check_redis(url: str) -> None:
    """Raises `StartError` unless a Redis that is new enough answers and lets us in."""
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

    place = f"Redis at {place_of(url, default_port=6379)}"
    client = Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, socket_timeout=CONNECT_TIMEOUT_SECONDS)
    try:
        await client.ping()
        version = _version(str((await client.info("server")).get("redis_version", "")))
    except NoPermissionError:
        return  # it answers, and may not be asked for more
    except AuthenticationError:
        raise StartError(f"{place} refused the user name or password: correct them in REDIS_URL.") from None
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        if "HELLO" in str(error):  # what every Redis before 6.0 answers to the first command
            raise _too_old(place, "older than 6.0") from None
        raise StartError(f"{place} cannot be reached ({_reason(error)}): start it, or correct REDIS_URL.") from None
    finally:
        await client.aclose()
    if version < MIN_REDIS_VERSION:
        raise _too_old(place, f"version {'.'.join(map(str, version))}")


def _too_old(place: str, found: str) -> StartError:
    return StartError(f"{place} is {found}, and 6.2 or newer is needed: upgrade it, or point REDIS_URL at a newer one.")


def place_of(url: str, *, default_port: int) -> str:
    """Host and port of a URL, or the path of its socket; nothing secret."""
    parts = urlsplit(url)
    try:
        port = parts.port or default_port
    except ValueError:
        return "the address given"
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
    return host if host.startswith("/") else f"{host}:{port}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_SECONDS:.0f} s"
    words = str(error).lower()
    if isinstance(error, ConnectionRefusedError) or "refused" in words or "connect call failed" in words:
        return "connection refused"
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
