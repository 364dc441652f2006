#!/usr/bin/env bash
# filelock 3.29.7 and 3.30.0
#
# A FileLock lasts as long as any process has its file open. With filelock 3.29.7 a child that is forked while the lock
# is held has it open too, so after the holder is killed nobody gets the lock before the child ends. From 3.30.0 on a
# child closes what it inherited, and the lock is free at its holder's death.
#
# Seen:
#   3.29.7: the holder killed, its child alive: held
#   3.29.7: the child has ended: free
#   3.30.0: the holder killed, its child alive: free
#   3.30.0: the child has ended: free
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PYTHON'
import os
import signal
import sys
import time

from filelock import FileLock, Timeout, __version__

PATH = sys.argv[1]


def holder(told):
    """Take the lock, fork a child, tell who that is, and die of a kill."""
    lock = FileLock(PATH)
    lock.acquire()
    child = os.fork()
    if child == 0:
        os.close(told)
        time.sleep(60)
        os._exit(0)
    os.write(told, str(child).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def state():
    try:
        with FileLock(PATH, blocking=False):
            return "free"
    except Timeout:
        return "held"


reads, told = os.pipe()
pid = os.fork()
if pid == 0:
    holder(told)
os.waitpid(pid, 0)
child = int(os.read(reads, 20))
print(f"{__version__}: the holder killed, its child alive: {state()}")
os.kill(child, signal.SIGKILL)
deadline = time.monotonic() + 10
while state() == "held" and time.monotonic() < deadline:
    time.sleep(0.05)
print(f"{__version__}: the child has ended: {state()}")
PYTHON
for version in 3.29.7 3.30.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install -q "filelock==$version"
    "$folder/$version/bin/python" "$folder/seen.py" "$folder/$version.lock"
done 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
3.29.7: the holder killed, its child alive: held
3.29.7: the child has ended: free
3.30.0: the holder killed, its child alive: free
3.30.0: the child has ended: free
SEEN
