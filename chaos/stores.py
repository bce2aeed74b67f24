"""Where lakes are: file systems that are small, and buckets behind a proxy that makes trouble."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from chaos.proxy import Proxy
from jobs.lake.layout import Lake

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
"""What opens moto's server, and nothing else."""
BUCKET = "chaos"
FIRST_ARRIVAL = 1_780_272_000  # s since 1970, after all that is simulated: a file a minute


def put(lake: Lake, name: str, content: bytes, minute: int) -> None:
    """Write a file of bronze as if it had arrived in this minute; S3 says itself when it did."""
    if lake.on_s3:
        bucket, _, key = lake.arrow_path(f"{lake.uri}/{name}").partition("/")
        boto3.client("s3", endpoint_url=lake.s3.endpoint).put_object(Bucket=bucket, Key=key, Body=content)
        return
    path = Path(lake.uri) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    at = FIRST_ARRIVAL + 60 * minute
    os.utime(path, (at, at))


class Stores:
    """The S3 API and its proxy, started when they are first asked for."""

    @cached_property
    def server(self) -> tuple[subprocess.Popen[bytes], str]:
        """The server of moto, and its address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=quiet, stderr=quiet
        )
        deadline = time.monotonic() + 60
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("moto's server does not answer")
            time.sleep(0.1)
        return process, f"http://127.0.0.1:{port}"

    @property
    def endpoint(self) -> str:
        """The store itself, where nothing is spoiled."""
        return self.server[1]

    @cached_property
    def proxy(self) -> Proxy:
        """The way to it that the jobs take."""
        return Proxy(self.endpoint)

    def empty(self, prefix: str) -> None:
        """Leave nothing below a prefix of the bucket, which is made if there is none."""
        self._bucket.create()
        self._bucket.objects.filter(Prefix=f"{prefix}/").delete()

    def copy(self, source: str, target: str) -> int:
        """Copy all objects below a prefix of the bucket to another; how many there are."""
        keys = [found.key for found in self._bucket.objects.filter(Prefix=f"{source}/")]
        for key in keys:
            copied = self._bucket.Object(target + key.removeprefix(source))
            copied.copy_from(CopySource={"Bucket": BUCKET, "Key": key})
        return len(keys)

    def download(self, prefix: str, folder: Path) -> None:
        """Write all objects below a prefix of the bucket to a folder, but for those that only stand for one."""
        for found in self._bucket.objects.filter(Prefix=f"{prefix}/"):
            path = folder / found.key.removeprefix(f"{prefix}/")
            if not found.key.endswith("/"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(found.get()["Body"].read())

    @property
    def _bucket(self) -> Any:
        return boto3.resource("s3", endpoint_url=self.endpoint).Bucket(BUCKET)

    def close(self) -> None:
        """Stop what was started."""
        if "proxy" in vars(self):
            self.proxy.close()
        if "server" in vars(self):
            self.server[0].terminate()
            self.server[0].wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Disk:
    """A file system of a few megabytes, in memory.

    Attributes:
        place: Its folder.
    """

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True)

    def fill(self, leaving: int) -> None:
        """Leave only so many bytes."""
        free = shutil.disk_usage(self.place).free
        (self.place / "ballast").write_bytes(bytes(max(free - leaving, 0)))

    def empty(self) -> None:
        """Give the room back."""
        (self.place / "ballast").unlink()

    def close(self) -> None:
        """Unmount it."""
        unmount(self.place)


def unmount(place: Path) -> None:
    """Unmount a file system, if there is one, as soon as nothing in it is open."""
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def no_mounts() -> str:
    """Why no file system can be mounted; empty if one can."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return "there is no mount command"
        if tried.returncode != 0:
            return f"a file system of its own cannot be mounted: {tried.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""
