"""Simulated sensor data: numbers only, no Spark."""
