"""The arithmetic alone: features of windows that are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.signal
import scipy.stats
import tsfel

from bench.stage import Contender, Role, Stage, Task
from jobs.features import spectra

RATE = 100.0
N = 1024
SHARED = ("mean", "rms", "std", "peak_to_peak", "skewness", "kurtosis", "dominant", "centroid", "rolloff", "entropy")
_BLOCK = 128  # windows
_FEW = 200  # windows that a contender is given who takes them one by one


def windows(count: int) -> Any:
    """A walk, sampled at 100 Hz: gravity, two lines and noise; float32 of shape (count, N)."""
    stream = np.random.Generator(np.random.Philox(7))
    t = np.arange(N) / RATE
    hz = stream.uniform(1, 3, (count, 1))
    x = 9.81 + 2 * np.sin(2 * np.pi * hz * t) + 0.5 * np.sin(4 * np.pi * hz * t)
    return (x + 0.05 * stream.standard_normal((count, N))).astype(np.float32)


class Kernel(Contender):
    """A contender with windows in memory; what it finds of the first ones is kept for comparison."""

    few: ClassVar[bool] = False

    def open(self) -> None:
        """Make the windows."""
        self.x = windows(self.task.size.windows)[: _FEW if self.few else None]

    def run(self, out: Path) -> int:
        """Compute."""
        found = self.compute(self.x)
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / "found.npy", np.stack([found[name][:_FEW] for name in ("mean", "rms", "std", "skewness")]))
        return len(self.x)

    def compute(self, x: Any) -> dict[str, Any]:
        """Features by name."""
        raise NotImplementedError


class Shared(Kernel):
    """Our own families, composed for the features that the peers have too."""

    name: ClassVar[str] = "sensor-lakehouse, the shared features"
    role: ClassVar[Role] = "ours"

    def compute(self, x: Any) -> dict[str, Any]:
        """The shared features, a block that fits the cache at a time."""
        blocks = [self._of(x[start : start + _BLOCK]) for start in range(0, len(x), _BLOCK)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in SHARED}

    def _of(self, x: Any) -> dict[str, Any]:
        y, mean, peak, _ = spectra.centre(x)
        hz = np.full(len(x), RATE / N)
        statistics = spectra.time_statistics(y, mean, peak)
        amplitude = np.abs(spectra.hann_spectrum(y))
        power = spectra.power_spectrum(amplitude, N)
        shape = spectra.spectral_shape(power, np.cumsum(power, axis=1, dtype=np.float64), hz, 0.85, peak > 0)
        return {
            **statistics,
            "dominant": spectra.strongest_lines(amplitude, 1)[0][:, 0] * hz,
            "centroid": shape["spectral_centroid_hz"],
            "rolloff": shape["spectral_rolloff_hz"],
            "entropy": shape["spectral_entropy"],
        }


class All(Kernel):
    """Ours: all 24 features, of which the shared ones are a part."""

    name: ClassVar[str] = "sensor-lakehouse, all features"

    def compute(self, x: Any) -> dict[str, Any]:
        """All features of all windows at once."""
        return spectra.spectral_features(x, RATE)


class Scipy(Kernel):
    """scipy over the whole batch, feature by feature: the shared ones."""

    name: ClassVar[str] = "scipy.signal, the shared features"

    def compute(self, x: Any) -> dict[str, Any]:
        """Each feature from its own function."""
        x = x.astype(np.float64)
        hz, power = scipy.signal.periodogram(x, RATE, "hann", detrend="constant")
        share = power / power.sum(axis=1, keepdims=True)
        level = np.cumsum(share, axis=1)
        return {
            "mean": x.mean(axis=1),
            "rms": np.sqrt(np.mean(x**2, axis=1)),
            "std": x.std(axis=1),
            "peak_to_peak": np.ptp(x, axis=1),
            "skewness": scipy.stats.skew(x, axis=1),
            "kurtosis": scipy.stats.kurtosis(x, axis=1),
            "dominant": hz[power.argmax(axis=1)],
            "centroid": share @ hz,
            "rolloff": hz[(level < 0.85).sum(axis=1)],
            "entropy": scipy.stats.entropy(share, axis=1),
        }


class Tsfel(Kernel):
    """tsfel, a window at a time, as its own functions take it: the shared features."""

    name: ClassVar[str] = "tsfel, the shared features"
    few = True

    def compute(self, x: Any) -> dict[str, Any]:
        """Each feature of each window."""
        rows = [self._of(window.astype(np.float64)) for window in x]
        return {name: np.array([row[name] for row in rows]) for name in SHARED}

    def _of(self, x: Any) -> dict[str, float]:
        return {
            "mean": tsfel.calc_mean(x),
            "rms": tsfel.rms(x),
            "std": tsfel.calc_std(x),
            "peak_to_peak": tsfel.pk_pk_distance(x),
            "skewness": tsfel.skewness(x),
            "kurtosis": tsfel.kurtosis(x),
            "dominant": tsfel.fundamental_frequency(x, RATE),
            "centroid": tsfel.spectral_centroid(x, RATE),
            "rolloff": tsfel.spectral_roll_off(x, RATE),
            "entropy": tsfel.spectral_entropy(x, RATE),
        }


def prepare(_task: Task) -> None:
    """Nothing: each makes the same windows."""


def digest(_contender: str, out: Path) -> object | None:
    """Features that all define alike, of the first windows, to four digits."""
    return [float(f"{value:.3g}") for value in np.abs(np.load(out / "found.npy")).mean(axis=1)]


STAGE = Stage(
    name="kernel",
    title="features of windows of 1,024 samples in memory, one core",
    unit="windows",
    contenders=(Shared, All, Scipy, Tsfel),
    prepare=prepare,
    digest=digest,
    targets={Tsfel.name: 100},
)
