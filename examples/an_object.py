"""An object beside the position: both are of one moment, so that no item is missing from it and none is in it twice.

Run it, press Ctrl-C after a few words (or `kill -9` it), and run it again: it goes on at that word.
"""

import os
import time

from py_restart import enable_counter

WORDS = ["fox", "dog", "fox", "cat", "dog", "fox", "owl", "cat", "fox", "dog", "bee", "fox"]
PAUSE = float(os.environ.get("SECONDS", 20)) / len(WORDS)  # SECONDS=1 in the environment is quicker

with enable_counter("an_object.progress", each_save=True) as counter:
    seen = counter.save_load_object({}, "seen.pickle")
    for word in counter(WORDS):
        print(f"word {counter.position}: {word}", flush=True)
        time.sleep(PAUSE)
        seen[word] = seen.get(word, 0) + 1
    print("done:", seen)
