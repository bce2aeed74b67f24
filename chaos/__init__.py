"""Breaks runs on purpose, runs them again, and checks that nothing is lost and nothing doubled.

A scenario is a ``Kind`` and a seed. It is given a ``Trial``: a lake, random numbers, and what compares the lake with an
undisturbed one. It is played on a ``Stage``: a folder, the ``Crew`` of processes that run jobs (``driver.py``, one kept
warm and those that are there to die), and the S3 API of ``stores.py``. What arrives is a ``Sample``, a small bronze;
what is done to it a program, steps of jobs (``trial.PROGRAMS``). ``checks.py`` says what must hold in the end.

A kind is added to the ``KINDS`` of a module of ``chaos/kinds``, or of a new one there, and to docs/reliability.md.
"""
