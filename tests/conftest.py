"""One thread: tiny models lose more to waiting threads than they gain, several times over on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
