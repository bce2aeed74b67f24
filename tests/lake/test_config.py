"""Settings: four layers in their order, each value's origin, and refusals that name the setting."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from jobs.catalog import DATASETS, GOLD
from jobs.lake import config
from jobs.lake.config import Settings
from jobs.lake.errors import ConfigurationError

HOME = Path(__file__).parents[2]
LIMIT = "silver.max_files_per_batch"
VARIABLE = "LAKEHOUSE__SILVER__MAX_FILES_PER_BATCH"


def load(*overrides: str, profile: str = "", environment: Mapping[str, str] | None = None) -> Settings:
    return config.load(
        profile,
        overrides,
        environment=environment or {},
        datasets={name: dataset.settings for name, dataset in DATASETS.items()},
        tables={name: table.settings for name, table in GOLD.items()},
    )


@pytest.mark.parametrize(
    ("profile", "environment", "overrides", "value", "origin"),
    [
        ("", {}, [], 1000, "conf/lakehouse.yaml"),
        ("production", {}, [], 10_000, "conf/profiles/production.yaml"),
        ("production", {VARIABLE: "7"}, [], 7, VARIABLE),
        ("production", {VARIABLE: "7"}, [f"{LIMIT}=5"], 5, "--set"),
        ("", {}, [f"{LIMIT}=5", f"{LIMIT}=6"], 6, "--set"),
    ],
)
def test_load__a_later_layer_wins_and_is_named(
    profile: str, environment: dict[str, str], overrides: list[str], value: int, origin: str
) -> None:
    settings = load(*overrides, profile=profile, environment=environment)
    assert settings.silver.max_files_per_batch == value
    assert settings.origins[LIMIT] == (value, origin)


def test_load__a_layer_leaves_the_other_settings_alone() -> None:
    settings = load(profile="production")
    assert settings.spark.driver_memory == "8g"
    assert settings.silver.rows_per_file == 12_000_000
    assert settings.origins["silver.rows_per_file"][1] == "conf/lakehouse.yaml"


def test_load__settings_that_only_the_code_has() -> None:
    """A dataset that is new in the code works before the shipped file mentions it."""

    class Tides(BaseModel):
        level_m: float = 1.5

    shipped = {name: dataset.settings for name, dataset in DATASETS.items()}
    tables = {name: table.settings for name, table in GOLD.items()}
    settings = config.load(environment={}, datasets={**shipped, "tides": Tides}, tables=tables)
    assert settings.datasets["tides"].level_m == 1.5
    assert settings.origins["datasets.tides.level_m"] == (1.5, "default")


def test_load__every_field_has_an_origin() -> None:
    origins = load().origins
    assert {"lake", "s3.endpoint", "spark.conf", "gold.rows_per_task", "datasets.turbofan.max_cycle"} <= set(origins)
    assert origins["datasets.accelerometer.earliest"][1] == "conf/lakehouse.yaml"


def test_load__times_of_the_shipped_file_are_utc() -> None:
    assert load().datasets["accelerometer"].earliest == datetime(2000, 1, 1, tzinfo=UTC)


def test_load__environment_other_variables_are_ignored() -> None:
    assert load(environment={"LAKEHOUSE_JARS": "/x", "SILVER__ROWS_PER_FILE": "1"}) == load()


def test_load__environment_top_level() -> None:
    settings = load(environment={"LAKEHOUSE__LAKE": "/data/lake"})
    assert settings.general.lake == "/data/lake"
    assert settings.origins["lake"] == ("/data/lake", "LAKEHOUSE__LAKE")


def test_load__set_takes_yaml() -> None:
    settings = load("tables.sensor_spectra.envelope_band=[5, 40]", "tables.sensor_spectra.overlap=0.5")
    assert settings.tables["sensor_spectra"].envelope_band == (5.0, 40.0)
    assert settings.tables["sensor_spectra"].overlap == 0.5


def test_load__set_a_value_with_an_equals_sign() -> None:
    conf = load("spark.conf.spark.executor.extraJavaOptions=-Da=b").spark.conf
    assert conf == {"spark.executor.extraJavaOptions": "-Da=b"}


@pytest.mark.parametrize(("typed", "spark"), [("4040", "4040"), ("true", "true"), ("0.6", "0.6"), ("2g", "2g")])
def test_load__spark_conf_takes_numbers_and_switches_as_spark_writes_them(typed: str, spark: str) -> None:
    assert load(f"spark.conf.spark.x.camelCase={typed}").spark.conf == {"spark.x.camelCase": spark}


def test_load__mapping_entry_by_name() -> None:
    """One name adds or replaces an entry; the whole mapping replaces them all."""
    name = "tables.sensor_spectra.bands"
    settings = load(f"{name}.stride=[0.5, 2]", f"{name}.gait=[0.5, 4]")
    bands = settings.tables["sensor_spectra"].bands
    assert (bands["stride"], bands["gait"], bands["limb"]) == ((0.5, 2.0), (0.5, 4.0), (5.0, 15.0))
    assert settings.origins[f"{name}.stride"] == ([0.5, 2], "--set")
    assert load(f"{name}={{only: [1, 2]}}").tables["sensor_spectra"].bands == {"only": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("silver.max_file_per_batch", "silver.max_files_per_batch"),
        ("datasets.turbofan.max_cycles", "datasets.turbofan.max_cycle"),
        ("laek", "lake"),
        ("tables.sensor_spectra.windows_seconds", "tables.sensor_spectra.window_seconds"),
        ("silver.max_files_per_batch.x", "silver.max_files_per_batch"),
        ("lake.x", "lake"),
    ],
)
def test_load__unknown_name_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(f"{name}=1")
    assert f"'{name}' in --set" in refused.value.what
    assert f"'{nearest}'" in refused.value.remedy


def test_load__unknown_name_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="LAKEHOUSE__SLIVER__ROWS"):
        load(environment={"LAKEHOUSE__SLIVER__ROWS": "1"})


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("silver.max_files_per_batch=0", "silver.max_files_per_batch"),
        ("silver.max_files_per_batch=many", "silver.max_files_per_batch"),
        ("spark.driver_memory=2 gigabytes", "spark.driver_memory"),
        ("s3.encryption=rot13", "s3.encryption"),
        ("datasets.accelerometer.acceleration_limit=-1", "datasets.accelerometer.acceleration_limit"),
        ("datasets.accelerometer.earliest=2000-01-01", "datasets.accelerometer.earliest"),
        ("tables.sensor_spectra.bands.x=[3, 1]", "tables.sensor_spectra.bands"),
        ("silver=3", "silver"),
    ],
)
def test_load__wrong_value_refused_by_name(override: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(override)
    assert name in refused.value.what
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("override", "what"), [("silver", "--set silver"), ("lake=[a", "lake=[a")])
def test_load__malformed_set_refused(override: str, what: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(override)
    assert refused.value.what == what


@pytest.mark.parametrize(
    "override",
    [
        "s3.endpoint=http://user:PLANTED@host",
        "s3.endpoint=user:PLANTED@host",
        "s3.endpoint http://user:PLANTED@host",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=[PLANTED",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=[PLANTED]",
        "spark.conf={spark.hadoop.fs.s3a.secret.key: [PLANTED]}",
    ],
)
def test_load__a_secret_is_not_repeated(override: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(override)
    told = "".join(traceback.format_exception(refused.value))
    assert "***" in told
    assert "PLANTED" not in told


@pytest.mark.parametrize(
    "name",
    [
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.bucket.raw.access.key",
        "spark.hadoop.fs.s3a.session.token",
        "spark.ssl.keyPassword",
        "spark.authenticate.secret",
    ],
)
def test_load__a_credential_is_no_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is a credential: .*AWS_PROFILE") as refused:
        load(f"spark.conf.{name}=PLANTED")
    assert "PLANTED" not in str(refused.value)


@pytest.mark.parametrize(
    "override",
    [
        "spark.hadoop.fs.s3a.performance.flags=create",
        "spark.hadoop.fs.s3a.performance.flags=mkdir, Create",
        "spark.hadoop.fs.s3a.bucket.raw.performance.flags='*'",
        "spark.hadoop.fs.s3a.create.performance=true",
    ],
)
def test_load__s3a_is_not_told_to_replace_what_is_there(override: str) -> None:
    with pytest.raises(ConfigurationError, match="two runs could lose a commit"):
        load(f"spark.conf.{override}")


@pytest.mark.parametrize(
    "override",
    [
        "spark.hadoop.fs.s3a.aws.credentials.provider=software.amazon.awssdk.auth.credentials.ProfileCredentialsProvider",
        "spark.hadoop.hadoop.security.credential.provider.path=jceks://file/keys",
        "spark.kubernetes.driver.secrets.aws=/etc/aws",
        "spark.hadoop.fs.s3a.performance.flags=delete,mkdir",
        "spark.hadoop.fs.s3a.create.performance=false",
    ],
)
def test_load__ways_to_credentials_and_flags_that_do_no_harm(override: str) -> None:
    name, _, value = override.partition("=")
    assert load(f"spark.conf.{override}").spark.conf == {name: value}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("silver: {max_file_per_batch: 5}", "unknown setting 'silver.max_file_per_batch' in conf/profiles/mine.yaml"),
        ("silver: {max_files_per_batch: many}", "setting silver.max_files_per_batch = 'many'"),
        ("silver:", "unknown setting 'silver' in conf/profiles/mine.yaml"),
        ("silver: [5", "conf/profiles/mine.yaml is not YAML"),
        ("- silver", "conf/profiles/mine.yaml holds no settings"),
    ],
)
def test_load__a_typing_error_in_a_profile(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(HOME / "conf", tmp_path / "conf")
    (folder / "profiles" / "mine.yaml").write_text(text)
    monkeypatch.setattr(config.resources, "files", lambda package: folder)
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        load(profile="mine")


def test_load__nothing_typed_is_an_empty_text() -> None:
    assert load("s3.endpoint=").s3.endpoint == load(environment={"LAKEHOUSE__S3__ENDPOINT": ""}).s3.endpoint == ""
    with pytest.raises(ConfigurationError, match=r"silver\.max_files_per_batch"):
        load("silver.max_files_per_batch=")


@pytest.mark.parametrize(
    "override",
    [
        "silver.keep_days.devices=1000000",
        "datasets.fleet.future_tolerance_seconds=.inf",
        "datasets.devices.future_tolerance_seconds=1e300",
        "datasets.waterways.future_tolerance_seconds=.nan",
    ],
)
def test_load__what_no_calendar_has_is_refused(override: str) -> None:
    with pytest.raises(ConfigurationError, match=override.partition("=")[0]):
        load(override)


def test_driver_memory__is_validated_before_the_jvm_is_started() -> None:
    assert config.driver_memory("production", [], {}) == "8g"
    with pytest.raises(ConfigurationError, match=r"setting spark\.driver_memory = '8gb'"):
        config.driver_memory("", ["spark.driver_memory=8gb"], {})


@pytest.mark.parametrize("endpoint", ["host:9000", "s3://host", "http://", "HTTP://host"])
def test_load__an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"s3.endpoint = '{endpoint}'\n  why:  an endpoint is http://HOST"):
        load(f"s3.endpoint={endpoint}")


@pytest.mark.parametrize(
    ("name", "value", "printed"),
    [
        ("silver.rows_per_file", 5, "5"),
        ("s3.endpoint", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("s3.kms_key_id", "arn:aws:kms:eu-west-1:1:key/x", "arn:aws:kms:eu-west-1:1:key/x"),
        ("spark.conf.spark.hadoop.fs.s3a.secret.key", "x", "***"),
        ("spark.conf.spark.hadoop.fs.s3a.access.key", "x", "***"),
        ("spark.conf.spark.hadoop.fs.s3a.session.token", "x", "***"),
        ("spark.conf.spark.ssl.keyPassword", "x", "***"),
        ("spark.conf.spark.hadoop.fs.s3a.encryption.key", "x", "***"),
        ("spark.conf.spark.driver.extraJavaOptions", "-Daws.secretKey=x", "***"),
        ("spark.conf", {"spark.hadoop.fs.s3a.secret.key": "x"}, "***"),
        ("spark.conf.spark.hadoop.fs.s3a.proxy", "http://user:x@host", "***"),
    ],
)
def test_shown(name: str, value: object, printed: str) -> None:
    assert config.shown(name, value) == printed


@pytest.mark.parametrize("profile", ["nightly", "../lakehouse", "__init__"])
def test_load__unknown_profile_lists_the_known(profile: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(profile=profile)
    assert f"conf/profiles/{profile}.yaml" in refused.value.what
    assert "demo, development, production, testing" in refused.value.why


@pytest.mark.parametrize("profile", ["demo", "development", "production", "testing"])
def test_load__every_shipped_profile_is_valid(profile: str) -> None:
    assert load(profile=profile).general.lake == "./lake"
