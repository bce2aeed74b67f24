"""The floor the stages stand on: session, layout, settings, promotion, Delta, books."""
