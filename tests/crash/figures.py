"""How often the crash tests try: the numbers that the tests use, and that the guide's table repeats.

The sweeps stop at every file operation there is; their figure is a lower bound that the test itself checks.
"""

OPERATION_KILLS = 2_500  # at least this many kills, one at each file operation of each job, before or after it
RECOVERY_KILLS = 1_000  # at least this many second kills, at each file operation of the recovery from a first one
OPERATION_FAILURES = 3_000  # at least this many failing file operations: ENOSPC, EIO, EACCES, EINTR
POWER_CUT_STATES = 3_000  # at least this many different disks after a power cut
RANDOM_MUTATIONS = 100_000  # damaged progress files, besides every prefix and every flipped bit
RANDOM_KILLS = 500  # kills of running jobs at random moments
RANDOM_SIGNALS = 300  # Ctrl-C and SIGTERM at random moments
RANDOM_PROGRAMS = 2_000  # random programs against the model in memory
OPERATION_SIGNALS = 2_000  # at least this many time limits (SIGALRM) that raise, one at each file operation of each job
RANDOM_LIMITS = 100  # time limits that raise at random moments
