"""What the project is built on: every licence is permissive, and no known vulnerability is among the pins."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# As packages name them: by SPDX's identifiers, by PyPI's classifiers, or in a line of their own.
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "MIT", "MIT-0", "MIT-CMU"),
    *("PSF-2.0", "Zlib"),
    *("Apache Software License", "BSD License", "ISC License (ISCL)", "MIT License"),
    "Python Software Foundation License",
    *("Apache 2.0", "BSD"),
}
# Copyleft of single files, of tools that are used and not shipped: nothing of the project comes under it.
OF_TOOLS = {"MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)"}

# From the POMs; JARs of one group have one licence.
JARS = {
    "io.delta": "Apache-2.0",
    "org.apache.hadoop": "Apache-2.0",
    "org.apache.spark": "Apache-2.0",
    "org.reactivestreams": "MIT-0",
    "org.wildfly.openssl": "Apache-2.0",
    "software.amazon.awssdk": "Apache-2.0",
    "software.amazon.eventstream": "Apache-2.0",
    "software.amazon.s3.analyticsaccelerator": "Apache-2.0",
}


def pinned(lock: str) -> list[str]:
    return re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / lock).read_text(), re.M)


def licences(found: PackageMetadata) -> list[str]:
    """What a package says of itself, where it says it best: an expression, classifiers or a line."""
    expression: str = found.get("License-Expression") or ""
    if expression:
        return re.split(r" (?:AND|OR) ", expression)
    prefix = "License :: OSI Approved :: "
    classifiers = [c.removeprefix(prefix) for c in found.get_all("Classifier") or [] if c.startswith(prefix)]
    return classifiers or [str(found.get("License") or "none named").splitlines()[0]]


@pytest.mark.parametrize(
    ("lock", "allowed"),
    [("requirements.lock", PERMISSIVE), ("requirements-dev.lock", PERMISSIVE | OF_TOOLS)],
)
def test_licences__of_packages(lock: str, allowed: set[str]):
    unknown, seen = {}, 0
    for name in pinned(lock):
        try:
            named = licences(metadata(name))
        except PackageNotFoundError:  # of another system, such as Windows
            continue
        seen += 1
        if not set(named) <= allowed:
            unknown[name] = named
    assert unknown == {}
    assert seen > 30


@pytest.mark.parametrize("listed", ["conf/jars.txt", "conf/next/jars.txt"])
def test_licences__of_jars(listed: str):
    groups = set(re.findall(r"^([a-z0-9.]+):", (ROOT / listed).read_text(), re.M))
    assert groups <= set(JARS)
    assert set(JARS.values()) <= PERMISSIVE


@pytest.mark.parametrize(
    "lock", ["requirements-dev.lock", "requirements-bench.lock", "conf/next/requirements-dev.lock"]
)
def test_audit__no_known_vulnerability(lock: str):
    command = [str(Path(sysconfig.get_path("scripts"), "pip-audit")), "--progress-spinner", "off", "-f", "json"]
    command += ["--require-hashes", "--disable-pip", "-r", str(ROOT / lock)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer within two minutes")
    if not done.stdout.strip():
        pytest.skip(f"the audit could not be made: {done.stderr.strip()[-200:]}")
    packages = json.loads(done.stdout)["dependencies"]
    if all("skip_reason" in package for package in packages):
        pytest.skip("this package index serves no advisories")
    vulnerable = {p["name"]: [v["id"] for v in p["vulns"]] for p in packages if p.get("vulns")}
    assert vulnerable == {}
