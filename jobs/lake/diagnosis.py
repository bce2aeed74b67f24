"""What an exception that nobody raised for a person means to one."""

from __future__ import annotations

import os
import re

from jobs.lake import errors
from jobs.lake.errors import LakehouseError, MachineError
from sim.writers import meaning

_TOLD = re.compile(r"\bsim\.errors\.(\w+): LH\d+ (.*)(?:\n  why:  (.*))?(?:\n  next: (.*))?")

# S3's code for a refusal, as the three clients write it down: Hadoop's, Arrow's, and that of deltalake.
_REFUSED = re.compile(
    r"Request ID: [^)]*\):(\w+)|ExceptionName: (\w+)|<Code>(\w+)</Code>|AWS Error (?!UNKNOWN|NETWORK)([A-Z_]+)"
)
_WHERE = re.compile(r"s3a?://[^\s'\",;)\]]+[^\s'\",;)\].:]")
# Of files and columns, as Spark and Hadoop write them down: what they are called says nothing of what went wrong.
_NAMES = re.compile(r"`(?:[^`]|``)*`|\b[Cc]olumn:? \[[^]]*\]|(?:\b(?:s3a?|file):|(?<!\S)/)\S+")

_CALLED_OFF = re.compile(r"cancelled as part of cancellation of all jobs")

_MAX_ERROR = 300  # characters
_NOT_AGAIN = "what is committed is not done again"
_MACHINE = (
    (
        _CALLED_OFF,
        "Spark's work was called off",
        "this run lost a table that it held, or was stopped",
        f"the same command: {_NOT_AGAIN}",
    ),
    (
        re.compile(r"No space left on device|Disk quota exceeded|os error 28|Errno 28"),
        "there is no room left on a disk",
        "the lake's, or that of Spark's temporary files",
        f"df -h; make room, then the same command: {_NOT_AGAIN}",
    ),
    (
        re.compile(
            r"Python worker exited unexpectedly|Python worker failed to connect|Python daemon|pyspark\.daemon"
            r"|api\.python\.PythonWorkerFactory"  # where workers are started, and nowhere else
        ),
        "a Python worker of Spark's has died",
        "it was killed: most often by the system, for lack of memory",
        "the same command; if it dies again, with fewer at a time: --on 'local[1]'",
    ),
    (
        re.compile(r"java\.lang\.OutOfMemoryError"),
        "Java's memory is used up",
        "what one task holds is more than the session was given",
        "the same command with --set spark.driver_memory=8g",
    ),
    (
        re.compile(
            r"Connection refused|Connection reset|error sending request|UnknownHostException|AWS Error NETWORK"
            r"|\btimed out\b|TimeoutException|timeout (was reached|waiting|on endpoint)|(gateway|request) time-?out",
            re.I,
        ),
        "a server does not answer, or hung up",
        "the network, or the server, was not there for longer than all attempts took",
        f"./spark-submit.sh doctor; when it answers, the same command: {_NOT_AGAIN}",
    ),
)


def told(error: Exception) -> LakehouseError:
    """The error for people that another one comes down to."""
    return known(error) or unforeseen(error)


def known(error: BaseException, lake: str = "") -> LakehouseError | None:
    """The error for people, if this is one that was foreseen; it names the lake if a store does not say where."""
    text = str(error)
    return _by_worker(text) or _by_store(text, lake) or _by_machine(text)


def cause(error: BaseException, place: str) -> str:
    """Why something failed there, in a line: in a folder in the system's words, on S3 in ours, never in a server's."""
    foreseen = known(error)
    if foreseen:
        return foreseen.why
    return f"an answer nobody foresaw ({type(error).__name__})" if place.startswith("s3a://") else shortened(error)


def shortened(error: object) -> str:
    """What an error says, in one line and not a long one."""
    return " ".join(str(error).split())[:_MAX_ERROR]


def is_called_off(error: Exception) -> bool:
    """Whether Spark gave up what it did because it was told to."""
    return _CALLED_OFF.search(_NAMES.sub("", str(error))) is not None


def _by_worker(text: str) -> LakehouseError | None:
    """The error for people that a Spark task ended with, of which Spark hands on no more than the text."""
    found = _TOLD.search(text)
    return found and getattr(errors, found[1])(found[2], why=found[3] or "", remedy=found[4] or "")


def _by_store(text: str, lake: str) -> MachineError | None:
    """What S3 refused, in our own words: a server's may echo a secret."""
    found = _REFUSED.search(_NAMES.sub("", text))
    if not found:
        return None
    code = next(filter(None, found.groups()))
    code = code.title().replace("_", "") if code.isupper() else code
    named, (cause, remedy) = _WHERE.search(text), meaning(code)
    where = named[0] if named else lake
    return errors.StoreError(
        f"S3 refused a request{f' for {where}' if where else ''}",
        why=f"{cause} ({code})" if cause else code,
        remedy=remedy if remedy.startswith("run again") else f"{remedy}; then the same command: {_NOT_AGAIN}",
    )


def _by_machine(text: str) -> MachineError | None:
    text = _NAMES.sub("", text)
    for pattern, what, why, remedy in _MACHINE:
        if pattern.search(text):
            return MachineError(what, why=why, remedy=remedy)
    return None


def unforeseen(error: BaseException) -> LakehouseError:
    """The error for people when nobody knows what it comes down to."""
    log = os.environ.get("LAKEHOUSE_LOG", "the output above")
    first = str(error).strip().splitlines() or [type(error).__name__]
    # What the operating system or the store refuses is the machine's fault.
    return (MachineError if isinstance(error, OSError) else LakehouseError)(
        first[0][:300],
        why=f"an error nobody foresaw; the whole of it is in {log}",
        remedy="./spark-submit.sh doctor; if all is well there, report it with the log",
    )
