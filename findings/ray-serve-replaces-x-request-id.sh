#!/usr/bin/env bash
# ray 2.60.0 (Serve), httpx 0.28.1
#
# An app behind Ray Serve sends an answer's own x-request-id. Serve's proxy puts its id of the request in its place, so
# that a client cannot read the app's; under any other name the header arrives as it was sent.
#
# Seen:
#   x-request-id: replaced
#   x-answer-id: as sent
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q 'ray[serve]==2.60.0' httpx==0.28.1
cat > "$folder/seen.py" <<'PYTHON'
import logging
import socket

import httpx
import ray
from ray import serve
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

OWN = {"x-request-id": "the-apps-own", "x-answer-id": "the-apps-own"}
app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("hello", headers=OWN))])


@serve.deployment
@serve.ingress(app)
class Service:
    pass


ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
serve.start(http_options=serve.HTTPOptions(host="127.0.0.1", port=port))
serve.run(Service.bind(), name="finding", route_prefix="/")
headers = httpx.get(f"http://127.0.0.1:{port}/", timeout=60, trust_env=False).headers
for name, value in OWN.items():
    print(f"{name}: {'as sent' if headers.get(name) == value else 'replaced'}")
ray.shutdown()
PYTHON
RAY_USAGE_STATS_ENABLED=0 "$folder/env/bin/python" "$folder/seen.py" 2> "$folder/log" | grep '^x-' | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
x-request-id: replaced
x-answer-id: as sent
SEEN
