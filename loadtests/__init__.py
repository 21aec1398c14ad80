"""Load tests: traffic that checks every answer, and scenarios that hold promises against what clients saw."""
