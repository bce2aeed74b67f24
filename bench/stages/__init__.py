"""One module a stage; each has a ``STAGE``."""
