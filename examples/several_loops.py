"""Several loops one after the other: those that are done stay done until the whole block is.

Run it, press Ctrl-C when it converts, and run it again: nothing is downloaded a second time.
"""

import os
import time

from py_restart import multi_count, simple_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 10  # SECONDS=1 in the environment is quicker

with multi_count():
    for page in simple_counter("download.progress", range(5)):
        print("download page", page, flush=True)
        time.sleep(PAUSE)
    for page in simple_counter("convert.progress", range(5)):
        print("convert page", page, flush=True)
        time.sleep(PAUSE)
    print("done")
