"""What PostgreSQL's and the driver's errors mean for whoever asked: try again, ask for less, or mend the data."""

from __future__ import annotations

import asyncpg
from asyncpg.exceptions import _base as asyncpg_client

_DATA_ERRORS = (
    asyncpg.DataError,
    asyncpg_client.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
_PASSING_ERRORS = (
    asyncpg.TransactionRollbackError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


def is_data_refused(error: BaseException) -> bool:
    """A value can never be stored."""
    return isinstance(error, _DATA_ERRORS)


def is_statement_timeout(error: BaseException) -> bool:
    """A statement took longer than it may."""
    return isinstance(error, asyncpg.QueryCanceledError)


def is_passing(error: BaseException) -> bool:
    """The same may succeed a moment later: conflicts, and whatever a lost or restarting server causes."""
    return isinstance(error, _PASSING_ERRORS) and not isinstance(error, asyncpg_client.DataError)
