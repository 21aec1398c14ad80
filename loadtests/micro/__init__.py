"""Costs of one part at a time, in CPU time."""
