"""The errors of the lakehouse; they are defined beside the simulator, which may not import from here."""

from sim.errors import (
    BooksError,
    ConfigurationError,
    DataError,
    FileRefusedError,
    HeldError,
    LakehouseError,
    MachineError,
    ParameterError,
    StoreError,
    TakenOverError,
    UsageError,
)

__all__ = [
    "BooksError",
    "ConfigurationError",
    "DataError",
    "FileRefusedError",
    "HeldError",
    "LakehouseError",
    "MachineError",
    "ParameterError",
    "StoreError",
    "TakenOverError",
    "UsageError",
]
