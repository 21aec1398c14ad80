"""Decides: routing tables, splits, guards and evidence as pure values and functions."""
