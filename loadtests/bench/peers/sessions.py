"""Resident memory that one more session takes, in bytes: the growth over so many of them."""

import os
import sys

from model import Model


def resident():
    """Of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


count = int(sys.argv[1])
kept = [Model() for _ in range(3)]
before = resident()
kept += [Model() for _ in range(count)]
print((resident() - before) / count)
