#!/usr/bin/env bash
# ray 2.60.0
#
# Ray starts the processes of its actors and tasks at niceness 15 where the process that starts the cluster is at 0, so
# that beside other busy programs an actor (a Serve replica, its proxy) gets next to none of the processor.
# RAY_worker_niceness=0 in the environment of the process that starts the cluster leaves them as they are.
#
# Seen:
#   as it comes: the driver 0, an actor 15
#   RAY_worker_niceness=0: the driver 0, an actor 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q ray==2.60.0
cat > "$folder/seen.py" <<'PYTHON'
import logging
import os
import sys

import ray


@ray.remote
class Actor:
    def niceness(self):
        return os.nice(0)


ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
print(f"{sys.argv[1]}: the driver {os.nice(0)}, an actor {ray.get(Actor.remote().niceness.remote(), timeout=120)}")
ray.shutdown()
PYTHON
export RAY_USAGE_STATS_ENABLED=0
{
    "$folder/env/bin/python" "$folder/seen.py" "as it comes"
    RAY_worker_niceness=0 "$folder/env/bin/python" "$folder/seen.py" "RAY_worker_niceness=0"
} 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
as it comes: the driver 0, an actor 15
RAY_worker_niceness=0: the driver 0, an actor 0
SEEN
