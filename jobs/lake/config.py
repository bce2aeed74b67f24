"""Settings in four layers (shipped < profile < environment < --set), validated once, each value's origin known."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jobs.lake.errors import ConfigurationError

_SECRET = re.compile(r"secret|password|token|access.?key|encryption.?key|credential|:\S*@", re.I)
_CREDENTIAL = re.compile(r"(access|secret)[._]?key$|(secret|password|token)$", re.I)
ENVIRONMENT_PREFIX = "LAKEHOUSE__"
SHIPPED = "conf/lakehouse.yaml"
JAVA_OPTIONS = "-XX:-DontCompileHugeMethods"
"""Java leaves methods of more than 8,000 bytes to its interpreter. A dataset with a dozen columns and rules is one."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GeneralSettings(_Section):
    """What is asked of every run."""

    lake: str = Field("./lake", description="A folder, or s3a://bucket/prefix")


class S3Settings(_Section):
    """How an ``s3a://`` lake is reached. Credentials come from the standard AWS chain, never from here."""

    endpoint: str = Field("", description="Address of an S3-compatible server; empty for AWS itself")
    region: str = Field("us-east-1", description="Region of the bucket")
    timeout_seconds: float = Field(60.0, gt=0, description="How long an answer to a request is waited for")
    attempts: int = Field(5, ge=1, description="How often a request is made, the first time included")
    encryption: str = Field("", pattern="^(|AES256|aws:kms)$", description="Server-side encryption of bronze")
    kms_key_id: str = Field("", description="KMS key for encryption aws:kms; empty for the account's own")

    @field_validator("endpoint")
    @classmethod
    def _without_credentials(cls, endpoint: str) -> str:
        """It ends up in what is printed."""
        if endpoint and not re.fullmatch(r"https?://[^/@\s][^@\s]*", endpoint):
            raise ValueError("an endpoint is http://HOST or https://HOST, and holds no credentials")
        return endpoint

    @property
    def connect_seconds(self) -> float:
        """How long a connection is waited for: a store that is there takes one up at once."""
        return min(10.0, self.timeout_seconds)


class LeaseSettings(_Section):
    """One run at a time writes a table: how long one holds it, and how long another waits."""

    seconds: float = Field(60.0, ge=1, description="A run that gives no sign of life for so long loses its tables")
    wait_seconds: float = Field(600.0, ge=0, description="How long a run waits for a table that another holds")
    take_over: bool = Field(False, description="Take tables from a run that hangs: for one command, not for a profile")


class SparkSettings(_Section):
    """The Spark session."""

    driver_memory: str = Field("2g", pattern=r"^\d+[mgMG]$", description="Heap of the JVM")
    shuffle_partitions: int = Field(2, ge=1, description="Partitions of a shuffle whose size Spark can't tell")
    conf: dict[str, str] = Field({}, description="Any further Spark setting, by its full name")

    @field_validator("conf", mode="before")
    @classmethod
    def _as_text(cls, conf: Any) -> Any:
        """YAML has numbers and switches; Spark has text."""
        if not isinstance(conf, Mapping):
            return conf
        scalar = (bool, int, float)
        return {k: str(v).lower() if isinstance(v, scalar) else v for k, v in conf.items()}

    @field_validator("conf")
    @classmethod
    def _harmless(cls, conf: dict[str, str]) -> dict[str, str]:
        """No secret, for the list of processes shows what is typed, and nothing by which a commit could be lost."""
        for name, value in conf.items():
            if _CREDENTIAL.search(name):
                raise ValueError(
                    f"{name} is a credential: those come from the standard AWS chain (AWS_PROFILE, or AWS_ACCESS_KEY_ID"
                    " and AWS_SECRET_ACCESS_KEY) or from Hadoop's credential providers, never from a setting"
                )
            flags = {flag.strip().lower() for flag in value.split(",")}
            if (name.endswith("fs.s3a.create.performance") and "true" in flags) or (
                name.endswith(".performance.flags") and flags & {"create", "*"}
            ):
                raise ValueError(
                    f"{name} has S3A replace what is there, and Delta's log relies on a file that is there not being"
                    " replaced: two runs could lose a commit"
                )
        return conf


KeepDays = dict[str, Annotated[int, Field(ge=1, le=365_000)]]


class SilverSettings(_Section):
    """Bounds of a promotion, and of how long silver keeps rows."""

    max_files_per_batch: int = Field(1000, ge=1, description="Bronze files of one transaction")
    rows_per_file: int = Field(12_000_000, ge=1, description="Rows that a silver file aims at")
    keep_days: KeepDays = Field(
        {}, description="Dataset -> days that its rows are kept after their event; else for ever"
    )


class QuarantineSettings(_Section):
    """How long refused rows are kept."""

    keep_days: KeepDays = Field(
        {}, description="Dataset -> days that they are kept after they were refused; else for ever"
    )


class GoldSettings(_Section):
    """Bounds of a gold run, and of how long gold keeps rows."""

    max_bytes_per_batch: int = Field(4_000_000_000, ge=1, description="Silver bytes of one transaction")
    rows_per_task: int = Field(
        4_000_000, ge=1, description="New rows for one worker at a time; with old ones it holds twice as many"
    )
    keep_days: KeepDays = Field({}, description="Table -> days that its rows are kept after their time; else for ever")


class MaintainSettings(_Section):
    """Care of the tables."""

    target_file_bytes: int = Field(
        268_435_456, ge=1_048_576, description="Length that compaction aims at; a file of less than half is small"
    )
    vacuum_hours: int = Field(
        168, ge=168, description="Files that no longer belong to a table stay so long, for their readers"
    )


@dataclass(frozen=True)
class Settings:
    """The settings in force.

    Attributes:
        general: What is asked of every run.
        s3: How S3 is reached.
        leases: How tables are held.
        spark: The session.
        silver: Bounds of a promotion.
        gold: Bounds of a gold run.
        quarantine: How long refused rows are kept.
        maintain: Care of the tables.
        datasets: Thresholds by dataset, each the dataset's own model.
        tables: Settings by gold table, each the table's own model.
        origins: Dotted name -> (value, where it comes from).
    """

    general: GeneralSettings
    s3: S3Settings
    leases: LeaseSettings
    spark: SparkSettings
    silver: SilverSettings
    gold: GoldSettings
    quarantine: QuarantineSettings
    maintain: MaintainSettings
    datasets: Mapping[str, Any]
    tables: Mapping[str, Any]
    origins: Mapping[str, tuple[Any, str]]


_CORE: dict[str, type[BaseModel]] = {
    "s3": S3Settings,
    "leases": LeaseSettings,
    "spark": SparkSettings,
    "silver": SilverSettings,
    "gold": GoldSettings,
    "quarantine": QuarantineSettings,
    "maintain": MaintainSettings,
}


def load(
    profile: str = "",
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    datasets: Mapping[str, type[BaseModel]] | None = None,
    tables: Mapping[str, type[BaseModel]] | None = None,
) -> Settings:
    """Merge the layers and validate them.

    Args:
        profile: Name of a file in ``conf/profiles``; empty for none.
        overrides: ``name=value`` as given with ``--set``; values are YAML.
        environment: Variables such as ``LAKEHOUSE__SILVER__MAX_FILES_PER_BATCH``; ``os.environ`` if None.
        datasets: Settings model of each dataset.
        tables: Settings model of each gold table.

    Raises:
        ConfigurationError: A name is unknown (the nearest known one is given), or a value may not be.
    """
    models = dict(_CORE)
    models |= {f"datasets.{name}": model for name, model in (datasets or {}).items()}
    models |= {f"tables.{name}": model for name, model in (tables or {}).items()}
    values = layered(profile, overrides, os.environ if environment is None else environment)
    _refuse_unknown(values, models)
    general = _validate("", GeneralSettings, _take(values, "", GeneralSettings))
    sections = {name: _validate(name, model, _take(values, name, model)) for name, model in models.items()}
    origins = {
        f"{prefix}{key}": values.get(f"{prefix}{key}", (value, "default"))
        for prefix, section in [("", general), *((f"{n}.", s) for n, s in sections.items())]
        for key, value in section
        if not any(name.startswith(f"{prefix}{key}.") for name in values)
    }
    return Settings(
        general=general,
        s3=sections["s3"],
        leases=sections["leases"],
        spark=sections["spark"],
        silver=sections["silver"],
        gold=sections["gold"],
        quarantine=sections["quarantine"],
        maintain=sections["maintain"],
        datasets={name: sections[f"datasets.{name}"] for name in datasets or {}},
        tables={name: sections[f"tables.{name}"] for name in tables or {}},
        origins={**origins, **values},
    )


def driver_memory(profile: str, overrides: Sequence[str], environment: Mapping[str, str]) -> str:
    """The heap of the JVM, which must be known before it is started.

    Raises:
        ConfigurationError: A setting of Spark's may not be what it is.
    """
    values = layered(profile, overrides, environment)
    spark: SparkSettings = _validate("spark", SparkSettings, _take(values, "spark", SparkSettings))
    return spark.driver_memory


def layered(profile: str, overrides: Sequence[str], environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Merge the layers without validation: dotted name -> (value, where it comes from)."""
    merged = {name: (value, SHIPPED) for name, value in _flatten(_read(SHIPPED))}
    if profile:
        source = f"conf/profiles/{profile}.yaml"
        merged |= {name: (value, source) for name, value in _flatten(_read(source))}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            merged[name] = (_value(name, text), variable)
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ConfigurationError(f"--set {shown('', override)}", why="it has no '='", remedy="--set name=value")
        merged[name.strip()] = (_value(name, text), "--set")
    return merged


def _read(source: str) -> Mapping[str, Any]:
    folder = resources.files("conf")
    known = sorted(p.name.removesuffix(".yaml") for p in folder.joinpath("profiles").iterdir())
    if source not in (SHIPPED, *(f"conf/profiles/{name}.yaml" for name in known)):
        raise ConfigurationError(
            f"there is no {source}", why=f"profiles are {', '.join(known)}", remedy=f"--profile {known[0]}"
        )
    try:
        found = yaml.safe_load(folder.joinpath(*source.split("/")[1:]).read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is not YAML", why=str(error), remedy=f"mend {source}") from error
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f"{source} holds no settings", why="they are lines of NAME: VALUE", remedy=f"mend {source}"
        )
    return found


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text.strip() else ""  # and not null, which is typed as that
    except yaml.YAMLError:  # not chained: it repeats the value
        what = f"{name}={shown(name, text)}"
        raise ConfigurationError(what, why="the value is not YAML", remedy="quote it") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _take(values: Mapping[str, tuple[Any, str]], section: str, model: type[BaseModel]) -> dict[str, Any]:
    """Nest the values of one section again, as far as its fields are known."""
    prefix = f"{section}." if section else ""
    tree: dict[str, Any] = {}
    for name, (value, _) in values.items():
        field, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix) or field not in model.model_fields:
            continue
        if rest:  # a mapping such as spark.conf, whose keys are free and may hold dots
            tree.setdefault(field, {})[rest] = value
        else:
            tree[field] = value
    return tree


def _validate(section: str, model: type[BaseModel], tree: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join([section, *map(str, first["loc"])]).strip(".")
        # Not chained: it repeats the value.
        raise ConfigurationError(
            f"setting {name} = {shown(name, repr(first['input']))}",
            why=first["msg"].removeprefix("Value error, "),
            remedy=f"--set {name}=VALUE; ./spark-submit.sh status --config shows what is in force",
        ) from None


def shown(name: str, value: object) -> str:
    """The value of a setting as it may be printed: asterisks where it, or its name, is like that of a secret."""
    return "***" if _SECRET.search(f"{name}={value}") else str(value)


def cache() -> Path:
    """The folder in which ``spark-submit.sh`` keeps JARs and logs."""
    folder = os.environ.get("LAKEHOUSE_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) if folder else Path(caches) / "sensor-lakehouse"


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like one that is not."""
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _refuse_unknown(values: Mapping[str, tuple[Any, str]], models: Mapping[str, type[BaseModel]]) -> None:
    known = [*GeneralSettings.model_fields]
    known += [f"{section}.{field}" for section, model in models.items() for field in model.model_fields]
    for name, (_, source) in values.items():
        if name not in known and not any(name.startswith(f"{k}.") and _is_mapping(k, models) for k in known):
            raise ConfigurationError(
                f"unknown setting '{name}' in {source}",
                why="no setting has this name",
                remedy=f"did you mean '{nearest(name, known)}'?",
            )


def _is_mapping(name: str, models: Mapping[str, type[BaseModel]]) -> bool:
    section, _, field = name.rpartition(".")
    if section not in models:
        return False
    return isinstance(models[section].model_fields[field].get_default(call_default_factory=True), Mapping)
