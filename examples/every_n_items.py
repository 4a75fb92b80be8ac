"""Save after every 100 items: however it is stopped, by `kill -9` too, it goes on at the last full hundred."""

import time

from py_restart import simple_counter

for number in simple_counter("every_n_items.progress", range(1000), save_span=100):
    if number % 50 == 0:
        print("number", number, flush=True)
    time.sleep(0.001)
print("done")
