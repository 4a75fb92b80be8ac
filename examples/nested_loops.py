"""A loop inside a loop: both go on where they were, and the inner one starts afresh for each outer item.

Run it, press Ctrl-C after a few months, and run it again: it goes on in that month of that year.
"""

import os
import time

from py_restart import enable_counter, simple_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 36  # SECONDS=1 in the environment is quicker

with enable_counter("years.progress") as years:
    for year in years(range(2020, 2023)):
        for month in simple_counter("months.progress", range(1, 13)):  # it makes no file: it is in years.progress
            print(f"{year}-{month:02}", flush=True)
            time.sleep(PAUSE)
    print("done")
