"""Several loops one after the other: those that are done stay done until the whole block is."""

import time

from py_restart import multi_count, simple_counter

with multi_count():
    for page in simple_counter("download.progress", range(5)):
        print("download page", page, flush=True)
        time.sleep(0.1)
    for page in simple_counter("convert.progress", range(5)):
        print("convert page", page, flush=True)
        time.sleep(0.1)
    print("done")
