#!/usr/bin/env bash
# mlflow 3.17.2 without and with litellm 1.110.2
#
# A span says which model answered and how many tokens it took; MLflow computes what that cost. Nothing in the trace or in
# the program mentions LiteLLM, but where that package happens to be installed MLflow takes its price function instead of
# its own, and the same span has another cost. Its own knows no rates for long prompts (Gemini 2.5 Pro doubles its input
# rate above 200,000 tokens), and LiteLLM is not told which tokens were written to a cache for an hour (twice the plain
# rate, not 1.25 times). So each of the two is too low for one of these answers, and neither is right for both.
#
# Seen:
#   mlflow alone: 250,000 tokens at gemini-2.5-pro $0.32250, 1,000 tokens at claude-sonnet-4-5 $0.00600
#   with litellm: 250,000 tokens at gemini-2.5-pro $0.64000, 1,000 tokens at claude-sonnet-4-5 $0.00488
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q mlflow==3.17.2
cat > "$folder/trace.py" <<'PYTHON'
import sys
from pathlib import Path

import mlflow

SPANS = {
    ("gemini", "gemini-2.5-pro"): {"input_tokens": 250_000, "output_tokens": 1_000, "total_tokens": 251_000},
    ("anthropic", "claude-sonnet-4-5"): {
        "input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100,
        "cache_creation_input_tokens": 500, "cache_creation_input_tokens_above_1hr": 500,
    },
}
mlflow.set_tracking_uri(f"sqlite:///{Path(sys.argv[1]).resolve() / 'mlflow.db'}")
mlflow.set_experiment("costs")
told = []
for (provider, model), usage in SPANS.items():
    with mlflow.start_span(name="answer", span_type="CHAT_MODEL") as span:
        span.set_attribute("mlflow.llm.provider", provider)
        span.set_attribute("mlflow.llm.model", model)
        span.set_attribute("mlflow.chat.tokenUsage", usage)
    mlflow.flush_trace_async_logging()
    cost = mlflow.get_trace(span.trace_id).info.cost["total_cost"]
    told.append(f"{usage['input_tokens']:,} tokens at {model} ${cost:.5f}")
print(f"{sys.argv[2]}: {', '.join(told)}")
PYTHON
export LITELLM_LOCAL_MODEL_COST_MAP=True # the prices in the package, not today's
cd "$folder" # MLflow makes a folder where it is
timeout 300 env/bin/python -P trace.py . "mlflow alone" 2> log | tee seen
env/bin/python -m pip install -q litellm==1.110.2
timeout 300 env/bin/python -P trace.py . "with litellm" 2> log | tee -a seen
diff seen - <<'SEEN'
mlflow alone: 250,000 tokens at gemini-2.5-pro $0.32250, 1,000 tokens at claude-sonnet-4-5 $0.00600
with litellm: 250,000 tokens at gemini-2.5-pro $0.64000, 1,000 tokens at claude-sonnet-4-5 $0.00488
SEEN
