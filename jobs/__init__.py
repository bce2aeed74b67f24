"""The jobs: one thin module per stage, each a spark-submit entry point."""

VERSION = "0.1.0"
