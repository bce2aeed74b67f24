"""The one way to a Spark session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from jobs.lake.config import JAVA_OPTIONS, Settings
from jobs.lake.layout import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

In = TypeVar("In")
Out = TypeVar("Out")

# Writes a checkpoint's file to S3 at its final place and leaves nothing there if it is interrupted, where Spark's own
# copies and deletes.
_CHECKPOINT_MANAGER = "spark.sql.streaming.checkpointFileManagerClass"
_FOR_S3 = "org.apache.spark.internal.io.cloud.AbortableStreamBasedCheckpointFileManager"

# Entries of Spark's UI.
_RETAINED = (
    "spark.ui.retainedJobs",
    "spark.ui.retainedStages",
    "spark.ui.retainedTasks",
    "spark.sql.ui.retainedExecutions",
)


def spark_conf(settings: Settings, lake: Lake, float_columns: Iterable[str] = ()) -> dict[str, str]:
    """Spark's settings for a lake.

    Args:
        settings: The settings in force.
        lake: Where the data is.
        float_columns: Columns written without a dictionary: measurements hardly repeat, and the attempt to find
            repeats costs a third of the time of a write.
    """
    conf = {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        # Files are shared out among as many tasks as cores, alike in bytes: silver has a file of each task. Spark would
        # count each file for 4 MB more, and so give one task those with many rows and another those with few.
        "spark.sql.files.maxPartitionBytes": "1g",
        "spark.sql.files.openCostInBytes": "128k",
        # How much of a shuffle becomes a file of gold.
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": "256m",
        "spark.sql.parquet.compression.codec": "zstd",
        # Of a file with many entities a reader of one reads a row group or two, and a writer holds no more than one.
        "spark.hadoop.parquet.block.size": str(32 << 20),
        # INT96, Spark's default, has no statistics and is deprecated; other readers want microseconds.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # Files with nanoseconds (pandas' default) come as integers and are converted by the promotion.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Inferring constraints through a dataset's dozens of rules takes minutes of planning and gives nothing.
        "spark.sql.constraintPropagation.enabled": "false",
        # A batch without one good row would be replaced by an empty relation, and its counts with it.
        "spark.sql.adaptive.optimizer.excludedRules": (
            "org.apache.spark.sql.execution.adaptive.AQEPropagateEmptyRelation"
        ),
        # Planning 50 tasks for the log of a small table takes longer than reading it.
        "spark.databricks.delta.snapshotPartitions": "2",
        # deltalake and DuckDB read our tables: no deletion vectors.
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
        # What is kept is read a few times: packing it costs more than it saves.
        "spark.sql.inMemoryColumnarStorage.compressed": "false",
        "spark.sql.streaming.metricsEnabled": "false",
        # A bit that was flipped on a disk or on the way does not pass for a value.
        "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
        # A job to look up the files of a batch pays only where each look crosses a network.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": str(32 if lake.on_s3 else 100_000),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Kept for a page that is off, plans and all: what a session that goes on would fill its memory with.
        **dict.fromkeys(_RETAINED, "100"),
    }
    conf |= {f"spark.hadoop.parquet.enable.dictionary#{name}": "false" for name in float_columns}
    if lake.on_s3:
        conf |= {
            "spark.hadoop.fs.s3a.endpoint.region": lake.s3.region,
            "spark.hadoop.fs.s3a.connection.timeout": f"{round(lake.s3.timeout_seconds * 1000)}ms",
            # S3A's own attempts come on top of those of the client below it, each after twice the pause.
            "spark.hadoop.fs.s3a.attempts.maximum": str(lake.s3.attempts),
            "spark.hadoop.fs.s3a.retry.limit": str(lake.s3.attempts),
            "spark.hadoop.fs.s3a.retry.throttle.limit": str(lake.s3.attempts),
        }
        if lake.s3.endpoint:
            conf |= {
                "spark.hadoop.fs.s3a.endpoint": lake.s3.endpoint,
                "spark.hadoop.fs.s3a.path.style.access": "true",
                "spark.hadoop.fs.s3a.connection.ssl.enabled": str(lake.s3.endpoint.startswith("https")).lower(),
            }
    return conf | dict(settings.spark.conf)


def open_session(settings: Settings, lake: Lake, float_columns: Iterable[str] = ()) -> SparkSession:
    """Open the session for a lake, or take the one that is open and set it for this lake.

    Under ``spark-submit`` the master and the JARs are given; elsewhere (tests, notebooks) the session is local and
    takes the JARs of ``LAKEHOUSE_JARS``.
    """
    from pyspark.sql import SparkSession

    conf = spark_conf(settings, lake, float_columns)
    active = SparkSession.getActiveSession()
    session = _build(conf, settings.spark.driver_memory) if active is None else _adapt(active, conf)
    # It comes with spark-hadoop-cloud, which not every distribution has.
    if lake.on_s3 and session._jvm.org.apache.spark.util.Utils.classIsLoadable(_FOR_S3):  # type: ignore[union-attr]
        session.conf.set(_CHECKPOINT_MANAGER, _FOR_S3)
    else:
        session.conf.unset(_CHECKPOINT_MANAGER)
    return session


def on_workers(spark: SparkSession, items: Sequence[In], work: Callable[[In], Out]) -> list[Out]:
    """Do the same with each item, on the workers: in as many tasks as there are cores, as each takes 0.1 s to start."""
    slices = min(len(items), spark.sparkContext.defaultParallelism)
    return spark.sparkContext.parallelize(items, slices).map(work).collect()


def _build(conf: dict[str, str], driver_memory: str) -> SparkSession:
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("sensor-lakehouse")
    for name, value in conf.items():
        builder = builder.config(name, value)
    folder = os.environ.get("LAKEHOUSE_JARS", "")
    if folder and "LAKEHOUSE_LOG" not in os.environ:  # spark-submit.sh has given both already
        jars = ",".join(os.path.join(folder, name) for name in sorted(os.listdir(folder)))
        builder = builder.config("spark.jars", jars).config("spark.driver.memory", driver_memory)
        options = f"{JAVA_OPTIONS} {conf.get('spark.driver.extraJavaOptions', '')}"
        builder = builder.config("spark.driver.extraJavaOptions", options)
    return builder.getOrCreate()


def _adapt(session: SparkSession, conf: dict[str, str]) -> SparkSession:
    """Set an open session for another lake, as far as a running one can be."""
    for name, value in conf.items():
        if session.conf.isModifiable(name):
            session.conf.set(name, value)
        elif name.startswith("spark.hadoop."):
            session.conf.set(name.removeprefix("spark.hadoop."), value)
    return session
