"""Prints the spark-submit command for a job, an argument a line: ``python -m jobs.lake.submit MASTER [options]``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.lake.config import JAVA_OPTIONS, driver_memory
from jobs.lake.errors import LakehouseError


def command(master: str, options: Sequence[str]) -> list[str]:
    """The real ``spark-submit`` with what must be known before the JVM starts.

    A local master uses the pip-installed Spark and our JARs. Any other is a cluster: the modules travel with
    ``--py-files``, and a YARN cluster such as EMR brings its own Spark and JARs.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", default="")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    known, _ = parser.parse_known_args(options)
    memory = driver_memory(known.profile, known.overrides, os.environ)
    home = Path(os.environ["LAKEHOUSE_HOME"])
    clustered = not master.startswith("local") or master.startswith("local-cluster")
    jars = sorted(str(jar) for jar in Path(os.environ["LAKEHOUSE_JARS"]).iterdir())
    arguments = [_spark_submit(master), "--master", "local[*]" if master == "local" else master]
    arguments += ["--name", "sensor-lakehouse", "--driver-memory", memory]
    if master != "yarn":
        arguments += ["--jars", ",".join(jars)]
    if clustered:
        from jobs.package import build

        arguments += ["--py-files", str(build(home / "dist"))]
    log4j = shlex.quote(f"{home}/conf/log4j2.properties")  # Spark splits it as a shell would
    log = f"-Dlog4j2.configurationFile={log4j} -Duser.timezone=UTC"
    return [*arguments, "--driver-java-options", f"{JAVA_OPTIONS} {log}"]


def _spark_submit(master: str) -> str:
    if master == "yarn" and os.environ.get("SPARK_HOME"):
        return os.path.join(os.environ["SPARK_HOME"], "bin", "spark-submit")
    import pyspark

    return str(Path(pyspark.__file__).parent / "bin" / "spark-submit")


if __name__ == "__main__":
    try:
        print("\n".join(command(sys.argv[1], sys.argv[2:])))
    except LakehouseError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
