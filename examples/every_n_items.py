"""Save after every 100 items: however it is stopped, by `kill -9` too, it goes on at the last full hundred.

Run it, press Ctrl-C after a few lines, and run it again: it goes on at 100, 200, 300 ...
"""

import os
import time

from py_restart import simple_counter

PAUSE = float(os.environ.get("SECONDS", 20)) / 1000  # SECONDS=1 in the environment is quicker

for number in simple_counter("every_n_items.progress", range(1000), save_span=100):
    if number % 50 == 0:
        print("number", number, flush=True)
    time.sleep(PAUSE)
print("done")
