"""Settings: environment variables, read once, frozen. A wrong one stops the start with a sentence that says why.

Names carry the prefix `SENDORA_`, except `PORT`, `DATABASE_URL` and `REDIS_URL`, which hosting platforms set so.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.egress import Egress
from engine.rate_limits import LIMIT, RESTORE_RATE
from engine.vault import Vault

MIN_SECRET_CHARACTERS = 32
"""256 bits when written as base64 or hex by the usual generators."""


class SettingsError(Exception):
    """A sentence for the operator: which setting is wrong, why, and how to mend it."""


class Region(StrEnum):
    """Where this deployment keeps its data. Part of every key's prefix."""

    US = "us"
    EU = "eu"


class Environment(StrEnum):
    """Who is at the other end: whoever builds on this machine, or everybody."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Introspection(StrEnum):
    """Who may ask for the schema and is told what a wrong name was meant to be: as the environment says, or not."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class StatusProfile(StrEnum):
    """HTTP status codes: as the published audits ask, or as the newer draft of GraphQL over HTTP does."""

    AUDITS = "audits"
    DRAFT = "draft"


class LogLevel(StrEnum):
    """Least severity that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """Everything that can be set from outside."""

    model_config = SettingsConfigDict(env_prefix="SENDORA_", env_ignore_empty=True, frozen=True, extra="ignore")

    port: Annotated[int, Field(ge=1, le=65535, validation_alias=AliasChoices("PORT", "SENDORA_PORT"))] = 8000
    host: str = "127.0.0.1"
    database_url: Annotated[
        SecretStr | None, Field(validation_alias=AliasChoices("DATABASE_URL", "SENDORA_DATABASE_URL"))
    ] = None
    redis_url: Annotated[SecretStr | None, Field(validation_alias=AliasChoices("REDIS_URL", "SENDORA_REDIS_URL"))] = (
        None
    )
    secret_key: SecretStr | None = None
    """Signs cursors and seals credentials; the same on every process of a deployment. `make run` makes one in the data
    folder."""
    previous_secret_keys: SecretStr = SecretStr("")
    """Earlier values of it (comma-separated) that credentials may still be sealed under."""
    public_url: str = ""
    """Where this deployment is reached from outside, e.g. https://gateway.example.com: for callbacks and links in mail.
    By default http:// with host and port."""
    contact: str = "mailto:postmaster@localhost"
    """A mailto: or https: URL for push services, where a project's own provider names none (RFC 8292)."""
    system_from: str | None = None
    """The sender of mail of the platform itself."""
    system_smtp_url: SecretStr | None = None
    """Where that mail goes: smtp://user:password@host:587 (STARTTLS) or smtps:// (TLS)."""
    egress_allow: str = ""
    """Networks (comma-separated, e.g. 10.1.0.0/16) that may be reached although they are private, over http too."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Where a worker serves its metrics, at `SENDORA_HOST`; 0 for nowhere. A gateway's are at /metrics."""
    spf_mechanism: str = ""
    """What sender domains allow in SPF, e.g. include:_spf.example.com; by default the host of the public URL."""
    dns_server: str = ""
    """`address:port` of the name server that sender domains are looked up at, instead of the system's."""
    fake_providers: bool = False
    """`run` also starts every provider on this machine, and the first project sends through them."""
    ssrf_guard: Annotated[bool, Field(validation_alias=AliasChoices("SSRF_GUARD", "SENDORA_SSRF_GUARD"))] = True
    """Off lets deliveries reach every address."""
    data_dir: Path = Path(".data")
    region: Region = Region.US
    gateways: Annotated[int, Field(ge=1, le=64)] = 1
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = 10
    worker_pool_size: Annotated[int, Field(ge=4, le=200)] = 10
    analytics_pool_size: Annotated[int, Field(ge=2, le=200)] = 4
    cost_limit: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = LIMIT
    """Points of cost in each caller's bucket: what may be spent at once."""
    cost_restore: Annotated[int, Field(ge=1, le=1_000_000_000)] = RESTORE_RATE
    """Points of them that come back in a second."""
    max_operation_cost: Annotated[int, Field(ge=1, le=1_000_000_000, validate_default=True)] = 20_000
    """Points that one operation may cost; at most `cost_limit`."""
    environment: Environment | None = None
    """`production` where it is not said; `run` then says `development`."""
    introspection: Introspection = Introspection.AUTO
    """`auto`: everybody in development; in production DEV keys, and whoever is EDITOR or more."""
    status_profile: StatusProfile = StatusProfile.AUDITS
    allowed_origins: str = ""
    """Origins (comma-separated) whose pages may call the gateway from a browser, besides its own; `*` for all."""
    log_level: LogLevel = LogLevel.WARNING

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(f"it needs at least {MIN_SECRET_CHARACTERS} characters, e.g. from `openssl rand -hex 32`")
        return value

    @field_validator("max_operation_cost")
    @classmethod
    def _can_be_paid(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("cost_limit", value):
            raise ValueError("it must not be more than SENDORA_COST_LIMIT, or it could never be paid")
        return value

    @field_validator("introspection", mode="before")
    @classmethod
    def _as_it_was_said_before(cls, value: object) -> object:
        """It was `true` or `false` once."""
        return {"true": "on", "1": "on", "false": "off", "0": "off"}.get(str(value).lower(), value)

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("it must start with postgresql://")
        return value

    @field_validator("system_smtp_url")
    @classmethod
    def _is_smtp(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and not info.data.get("system_from"):
            raise ValueError("it needs SENDORA_SYSTEM_FROM, the sender, beside it")
        if value is not None and not value.get_secret_value().startswith(("smtp://", "smtps://")):
            raise ValueError("it must start with smtp:// or smtps://")
        return value

    @field_validator("spf_mechanism")
    @classmethod
    def _is_mechanism(cls, value: str) -> str:
        if value and not re.fullmatch(r"(?:include|a|mx|ip4|ip6|exists|redirect)[:=]\S+", value):
            raise ValueError("it must be one mechanism of RFC 7208, e.g. include:_spf.example.com")
        return value

    @field_validator("dns_server")
    @classmethod
    def _is_address_and_port(cls, value: str) -> str:
        address, _, port = value.rpartition(":")
        if value and not (_is_address(address) and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("it must be an address and a port, e.g. 127.0.0.1:53")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must start with redis://, rediss:// or unix://")
        return value


def read_settings(**overrides: object) -> Settings:
    """The settings of this process. Raises `SettingsError`; the values themselves never appear in its message."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(
            f"{_environment_name(str(first['loc'][0]))} is malformed: {_reason(first['msg'])}."
        ) from None


def schema_for_all_of(settings: Settings) -> bool | None:
    """Whether clients may ask for the schema; None: it depends on who asks."""
    if settings.introspection is not Introspection.AUTO:
        return settings.introspection is Introspection.ON
    return True if settings.environment is Environment.DEVELOPMENT else None


def spf_mechanism_of(settings: Settings) -> str:
    """What a sender domain has to allow."""
    host = urlsplit(public_url_of(settings)).hostname or "localhost"
    if not _is_address(host):
        return settings.spf_mechanism or f"a:{host}"
    return settings.spf_mechanism or f"ip{ip_address(host).version}:{host}"


def dns_server_of(settings: Settings) -> tuple[str, int] | None:
    """Address and port of a name server; None for the system's."""
    address, _, port = settings.dns_server.rpartition(":")
    return (address.strip("[]"), int(port)) if address else None


def required(value: SecretStr | None) -> str:
    """One of the three that a deployment must give. Raises `SettingsError` where it is missing."""
    if value is None:
        raise SettingsError("DATABASE_URL, REDIS_URL and SENDORA_SECRET_KEY must be set.")
    return value.get_secret_value()


def secrets_of(settings: Settings) -> tuple[bytes, list[bytes]]:
    """The secret key, and those before it. Raises `SettingsError` without one."""
    previous = settings.previous_secret_keys.get_secret_value().split(",")
    return required(settings.secret_key).encode(), [key.strip().encode() for key in previous if key.strip()]


def vault_of(settings: Settings) -> Vault:
    """What seals credentials. Raises `SettingsError` without a secret key."""
    return Vault(*secrets_of(settings))


def egress_of(settings: Settings) -> Egress:
    """Where deliveries may go. Raises `SettingsError`."""
    try:
        return Egress(allowed=settings.egress_allow, guarded=settings.ssrf_guard)
    except ValueError as error:
        raise SettingsError(f"SENDORA_EGRESS_ALLOW is malformed: {_reason(str(error))}.") from None


def public_url_of(settings: Settings) -> str:
    """Where this deployment is reached from outside, without a slash at the end."""
    return (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def _environment_name(field: str) -> str:
    return field if field.isupper() else f"SENDORA_{field.upper()}"


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").removesuffix(".")
