"""Fetches the pinned JARs with Spark's own Ivy: ``python jars.py JARS_TXT FOLDER``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr


@dataclass(frozen=True)
class Jar:
    """One pinned JAR.

    Attributes:
        group: Maven group, such as ``io.delta``.
        artifact: Maven artifact.
        version: Exact version.
        sha256: Hex digest of the file.
    """

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name the file has in the cache."""
        return f"{self.group}_{self.artifact}-{self.version}.jar"


def read_pins(text: str) -> list[Jar]:
    """Parse ``jars.txt``: ``group:artifact:version sha256:digest``, ``#`` starts a comment."""
    jars = []
    for line in text.splitlines():
        if pin := line.partition("#")[0].split():
            group, artifact, version = pin[0].split(":")
            jars.append(Jar(group, artifact, version, pin[1].removeprefix("sha256:")))
    return jars


def fetch(jars: list[Jar], folder: Path) -> None:
    """Retrieve exactly ``jars``, nothing transitive, into ``folder/jars`` and check every digest.

    Ivy comes with Spark, so no other tool is needed. A site's own mirror is named by an Ivy settings file in
    ``LAKEHOUSE_IVY_SETTINGS``.

    Raises:
        SystemExit: A JAR is missing or is not the one that was pinned.
    """
    import pyspark

    ivy_file = folder / "ivy.xml"
    dependencies = "".join(
        f"<dependency org={quoteattr(j.group)} name={quoteattr(j.artifact)} rev={quoteattr(j.version)}"
        ' transitive="false" conf="default->master"/>'
        for j in jars
    )
    ivy_file.write_text(
        '<ivy-module version="2.0"><info organisation="sensor" module="lakehouse"/>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )
    java = Path(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
    (ivy,) = (Path(pyspark.__file__).parent / "jars").glob("ivy-*.jar")
    settings = os.environ.get("LAKEHOUSE_IVY_SETTINGS")
    command = [str(java), "-jar", str(ivy), "-ivy", str(ivy_file), "-cache", str(folder / "cache")]
    command += ["-settings", settings] if settings else []
    command += [
        "-retrieve",
        f"{folder}/jars/[organisation]_[artifact]-[revision].[ext]",
        "-types",
        "jar",
        "bundle",
    ]
    subprocess.run(command, check=True)
    for jar in jars:
        path = folder / "jars" / jar.file_name
        if not path.is_file():
            sys.exit(f"{jar.group}:{jar.artifact}:{jar.version} was not found")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != jar.sha256:
            sys.exit(f"{jar.file_name} is not the pinned file: sha256 {found}, expected {jar.sha256}")


if __name__ == "__main__":
    fetch(read_pins(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
