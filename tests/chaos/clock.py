"""A wall clock that can be stepped: a few lines of C between a process and its C library."""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_s;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    int file = open(getenv("CHAOS_CLOCK"), O_RDONLY);
    void *place = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (place != MAP_FAILED) offset_s = place;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int said = real(clock, at);
    if (!said && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset_s;
    return said;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The wall clock of every process that is started with ``env``; monotonic clocks are left alone."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        folder.mkdir(parents=True, exist_ok=True)
        library, source, self._file = folder / "clock.so", folder / "clock.c", folder / "offset"
        source.write_text(SOURCE)
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        self._file.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def step(self, seconds: int) -> None:
        """Away from the true time, from now on, in all of them at once."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as place:
            place[:8] = struct.pack("=q", seconds)
