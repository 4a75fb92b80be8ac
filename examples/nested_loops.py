"""A loop inside a loop: both go on where they were, and the inner one starts afresh for each outer item."""

import time

from py_restart import enable_counter, simple_counter

with enable_counter("years.progress") as years:
    for year in years(range(2020, 2023)):
        for month in simple_counter("months.progress", range(1, 13)):
            print(f"{year}-{month:02}", flush=True)
            time.sleep(0.05)
    print("done")
