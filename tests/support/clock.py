"""Wall clocks that a test can set, for processes that it starts: a preloaded library adds seconds to the time of day.

Monotonic clocks stay as they are, as they do when an administrator or NTP sets the time.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CLOCK_OFFSET_FILE");
    int file = name ? open(name, O_RDONLY) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) offset = found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (!result && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

/* The kernel knows nothing of the offset: wake up each 50 ms, and let the caller look at the clock again. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real_wait) {
        real_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
        if (!real_wait) real_wait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    }
    struct timespec soon, due = *until;
    if (!offset || until->tv_sec < 1000000000) return real_wait(cond, mutex, until);  /* a monotonic clock */
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec -= *offset;
    due.tv_sec -= *offset;
    soon.tv_nsec += 50000000;
    if (soon.tv_nsec >= 1000000000) soon.tv_sec += 1, soon.tv_nsec -= 1000000000;
    int before = due.tv_sec < soon.tv_sec || (due.tv_sec == soon.tv_sec && due.tv_nsec < soon.tv_nsec);
    return real_wait(cond, mutex, before ? &due : &soon);
}
"""


class Clock:
    """``environment`` is for the processes that use this clock."""

    def __init__(self, directory: Path) -> None:
        """Build the library. Raises FileNotFoundError without a C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("cc")
        source, library, self._file = directory / "clock.c", directory / "clock.so", directory / "clock"
        source.write_text(_SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set the clock this many seconds ahead of the machine's clock, or behind, from now on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
            memory[:8] = struct.pack("l", seconds)
