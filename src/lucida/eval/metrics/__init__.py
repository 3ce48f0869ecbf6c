"""Metrics: pure functions from outputs and truths to scores; no model, no files."""
