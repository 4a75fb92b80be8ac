"""A source that can seek: a function of the first item wanted goes there at once, instead of reading up to it.

Run it, press Ctrl-C after a few blocks, and run it again: it goes on at that block. The checksum is always the same.
"""

import argparse
import os
import time
import zlib

from py_restart import enable_counter

SIZE = 2000  # bytes of a block
PAUSE = float(os.environ.get("SECONDS", 20)) / 50  # SECONDS=1 in the environment is quicker


def blocks(start):
    """Read a file in blocks, from the given one on."""
    with open(argparse.__file__, "rb") as file:  # any large file
        file.seek(start * SIZE)
        while block := file.read(SIZE):
            yield block


with enable_counter("checksum.progress", each_save=True) as counter:
    counter.save_load_object(0, "checksum.pickle")
    for block in counter(blocks):
        print("block", counter.position, flush=True)
        time.sleep(PAUSE)
        counter.object = zlib.crc32(block, counter.object)  # a number cannot be changed in place: assign it
    print("done: the checksum is", counter.object)
