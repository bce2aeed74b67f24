"""Breaks runs on purpose, runs them again, and checks that nothing is lost and nothing doubled."""
