"""The registry: a dataset and its gold tables are a line each."""

from jobs.datasets import accelerometer, turbofan
from jobs.features import engine_health, engine_summary, sensor_spectra, spectra_accuracy
from jobs.lake.tables import by_name

DATASETS = by_name(accelerometer.DATASET, turbofan.DATASET)

# In the order they are computed in: a table may read those before it.
GOLD = by_name(sensor_spectra.TABLE, spectra_accuracy.TABLE, engine_health.TABLE, engine_summary.TABLE)
