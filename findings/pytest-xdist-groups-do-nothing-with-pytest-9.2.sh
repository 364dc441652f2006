#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0
#
# Six tests in two files are all of one xdist_group, so that --dist loadgroup should run them in one worker of two. Both
# workers get some: xdist notes the group by changing a private attribute of each test from which pytest 9.2 no longer
# makes its name, so that no group reaches the scheduler. Nothing warns. With pytest 9.0.1 one worker runs all six.
#
# Seen:
#   pytest 9.0.1: 6 passed, workers used: 1
#   pytest 9.2.0: 6 passed, workers used: 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for name in one two; do
    cat > "test_$name.py" <<'PYTHON'
import os
import time

import pytest


@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("number", range(3))
def test_it(number):
    time.sleep(0.2)
    with open(os.environ["WORKERS"], "a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)
PYTHON
done
for version in 9.0.1 9.2.0; do
    python3 -m venv "env-$version"
    "env-$version/bin/python" -m pip install -q "pytest==$version" pytest-xdist==3.8.0
    WORKERS="$folder/workers-$version" "env-$version/bin/python" -m pytest -q -n 2 --dist loadgroup test_one.py test_two.py > "log-$version"
    passed=$(grep -o '[0-9]* passed' "log-$version")
    echo "pytest $version: $passed, workers used: $(sort -u "workers-$version" | wc -l)"
done | tee seen
diff seen - <<'SEEN'
pytest 9.0.1: 6 passed, workers used: 1
pytest 9.2.0: 6 passed, workers used: 2
SEEN
