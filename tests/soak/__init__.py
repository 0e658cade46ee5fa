"""Faults and hostile input, injected for real and often: ``make soak``."""
