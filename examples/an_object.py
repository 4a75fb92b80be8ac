"""An object beside the position: both are of one moment, so that no item is missing from it and none is in it twice."""

import time

from py_restart import enable_counter

WORDS = ["fox", "dog", "fox", "cat", "dog", "fox", "owl", "cat", "fox", "dog", "bee", "fox"]

with enable_counter("an_object.progress", each_save=True) as counter:
    seen = counter.save_load_object({}, "seen.pickle")
    for word in counter(WORDS):
        print(f"word {counter.position}: {word}", flush=True)
        time.sleep(0.1)
        seen[word] = seen.get(word, 0) + 1
    print("done:", seen)
