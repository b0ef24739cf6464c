"""Name what can become of a request, and how a data directory is being recovered.

The calls of restore_command and the prefetch process both speak in these words.
"""

# Recovery modes. STANDBY stands for "no signal file at all" as well.
STANDBY, RECOVERY = "standby", "recovery"

# Outcomes.
DELIVERED = "delivered"
ABSENT = "absent"  # the archive answered: not there
GAP = "gap"  # not there, but the archive holds what comes after it
UNKNOWN = "unknown"  # could not find out
SKIPPED = "skipped"  # not tried: Barman could not be reached a moment ago
INVALID = "invalid"  # what came failed verification
LOCAL_ERROR = "local_error"  # wrong usage, or a disk that cannot be written
