"""Intervals, bounds, sequential tests and rank metrics; numpy alone, so that a verifier needs nothing more."""
