"""Several workers share forty shards: the lock of a shard's progress file is the claim on that shard.

Run it in three terminals at once, or on three machines that share the folder. Stop one in any way, `kill -9` too: the
others go on with its shard at the item where it was, and so does one that you start later.
"""

import os
import time
from pathlib import Path

from py_restart import InUseError, enable_counter

PAUSE = float(os.environ.get("SECONDS", 60)) / 400  # SECONDS=8 in the environment is quicker


def work_on(shard):
    """Finish a shard, or see that it is finished; raises InUseError where another worker has it."""
    result = Path(f"shard-{shard:02}.txt")
    with enable_counter(f"shard-{shard:02}.progress", each_save=True) as counter:  # a path for each shard
        if result.exists():  # looked for inside the block: before it, another worker may be about to write it
            return counter.remove_files()  # of a worker that was killed between its result and the end of the block
        total = counter.save_load_object({"sum": 0}, f"shard-{shard:02}.pickle")
        for item in counter(range(10)):
            print(f"shard {shard} item {item}", flush=True)
            time.sleep(PAUSE)
            total["sum"] += shard * item
        unfinished = result.with_suffix(".unfinished")  # nobody ever sees half a result
        with unfinished.open("w") as file:
            file.write(f"{total['sum']}\n")
            file.flush()
            os.fsync(file)  # or a power failure might leave an empty result
        os.replace(unfinished, result)  # written inside the block: after it, a kill would lose it


shards = list(range(40))
while shards:
    for shard in list(shards):
        try:
            work_on(shard)
            shards.remove(shard)
        except InUseError:
            time.sleep(0.05)  # look again later: its worker may be killed before it is done
