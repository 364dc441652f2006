#!/usr/bin/env bash
# huggingface_hub 1.17.0 and 2.4.0
#
# A snapshot that was downloaded with allow_patterns is later looked for with local_files_only. Version 1.17.0 returns
# its folder. Version 2.4.0 raises IncompleteSnapshotError, since files that nobody asked for, such as the README, are
# missing, unless the same patterns are given again; the folder is the error's snapshot_path.
#
# Seen:
#   1.17.0, without patterns: found
#   1.17.0, with the same patterns: found
#   2.4.0, without patterns: IncompleteSnapshotError, its snapshot_path is the folder
#   2.4.0, with the same patterns: found
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/seen.py" <<'PYTHON'
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b"# A model"}


class Hub(BaseHTTPRequestHandler):
    """A hub on this machine with one model."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        if "/resolve/" in path:
            content = FILES[path.rpartition("/")[2]]
            self.answer(content, ETag=json.dumps(self.oid(content)), **{"X-Repo-Commit": COMMIT})
        elif "/tree/" in path:
            listed = ({"path": name, "size": len(it), "oid": self.oid(it)} for name, it in FILES.items())
            self.answer(json.dumps([{"type": "file", **it} for it in listed]).encode())
        else:
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode())

    do_HEAD = do_GET

    def oid(self, content):
        return format(sum(content), "040x")

    def answer(self, content, **headers):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"

from huggingface_hub import __version__, snapshot_download

cache, patterns = sys.argv[1], {"allow_patterns": ["*.json", "*.safetensors"]}
downloaded = snapshot_download("org/model", cache_dir=cache, **patterns)
for given, called in (({}, "without patterns"), (patterns, "with the same patterns")):
    try:
        found = snapshot_download("org/model", cache_dir=cache, local_files_only=True, **given)
        said = "found" if found == downloaded else found
    except Exception as error:
        same = str(getattr(error, "snapshot_path", "")) == str(downloaded)
        said = f"{type(error).__name__}, its snapshot_path is {'the folder' if same else 'another'}"
    print(f"{__version__}, {called}: {said}")
hub.shutdown()
PYTHON
export HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_XET=1
for version in 1.17.0 2.4.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install -q "huggingface_hub==$version"
    "$folder/$version/bin/python" "$folder/seen.py" "$folder/cache-$version"
done 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
1.17.0, without patterns: found
1.17.0, with the same patterns: found
2.4.0, without patterns: IncompleteSnapshotError, its snapshot_path is the folder
2.4.0, with the same patterns: found
SEEN
