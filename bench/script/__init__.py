"""From bronze to gold without Spark: DuckDB on all cores, and the suite's own numpy in as many processes.

DuckDB reads, checks, drops what is there twice, joins and sums up; a row that fails a check is dropped. What the suite
does with numpy is done by the same functions here: spectra of windows, and how an engine wears.
"""
