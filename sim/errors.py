"""Every error the suite raises on purpose: what happened, why, and what to type next."""

from __future__ import annotations

from typing import ClassVar, Final

_LONGEST: Final = 2_000  # characters of what is told of an error: it may quote the data


class LakehouseError(Exception):
    """An error meant for a person.

    Args:
        what: What happened, naming the file, table, field or command.
        why: The cause, when it is known.
        remedy: What to type or change next.

    Attributes:
        code: A stable identifier, listed in ``docs/errors.md``.
        exit_code: 1 the data's fault, 2 the caller's, 3 the machine's, 4 ours.
    """

    code: ClassVar[str] = "LH400"
    exit_code: ClassVar[int] = 4

    def __init__(self, what: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what = _bounded(what)
        self.why = _bounded(why)
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [f"{self.code} {self.what}"]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.remedy:
            lines.append(f"  next: {self.remedy}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: the default pickling of exceptions would lose them on Spark's workers.
        return _rebuild, (type(self), self.what, self.why, self.remedy)


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 40]}... ({len(text):,} characters)"


def _rebuild(kind: type[LakehouseError], what: str, why: str, remedy: str) -> LakehouseError:
    return kind(what, why=why, remedy=remedy)


class DataError(LakehouseError):
    """The data cannot be what it claims to be."""

    code = "LH100"
    exit_code = 1


class FileRefusedError(DataError):
    """A source file is refused whole: it is not what its name says."""

    code = "LH101"


class BooksError(DataError):
    """Rows read are not rows written plus duplicates plus quarantined."""

    code = "LH102"


class UsageError(LakehouseError):
    """A command line or call that cannot be carried out as it was given."""

    code = "LH200"
    exit_code = 2


class ParameterError(UsageError):
    """A simulation or fault parameter is nonsense; the field is named."""

    code = "LH201"


class ConfigurationError(UsageError):
    """A setting is unknown or has a value it may not have."""

    code = "LH202"


class MachineError(LakehouseError):
    """The machine, the network or the store failed."""

    code = "LH300"
    exit_code = 3


class StoreError(MachineError):
    """The object store or file system refused; names the bucket and key, never a secret."""

    code = "LH301"


class HeldError(MachineError):
    """Another run writes the table, and went on for longer than this one may wait."""

    code = "LH302"


class TakenOverError(MachineError):
    """Another run has taken over a table that this one was writing: it commits nothing more."""

    code = "LH303"
