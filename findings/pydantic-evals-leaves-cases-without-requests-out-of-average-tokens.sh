#!/usr/bin/env bash
# pydantic-evals 2.62.0 with pydantic-ai-slim 2.62.0 and logfire 5.4.0
#
# A report of pydantic-evals counts requests, tokens and cost of each case from its spans, and averages them. A case that
# sent no request has none of these metrics, not 0, and the average is over the cases that have one. So a task that looks
# an answer up first, and asks the model in one case of four, has the same averages as the one that asks in all four:
# requests 1, input tokens 1,000. The row "Averages" of the two compared shows no difference, where three quarters of
# the tokens were saved. Durations and assertions stand in the same row, and are averages over all cases.
#
# Seen:
#   asks: 4,000 input tokens in 4 cases; average 1000.0, requests 1.0
#   looks first: 1,000 input tokens in 4 cases; average 1000.0, requests 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q pydantic-evals==2.62.0 pydantic-ai-slim==2.62.0 logfire==5.4.0
cat > "$folder/seen.py" <<'PYTHON'
import logfire
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage
from pydantic_evals import Case, Dataset

logfire.configure(send_to_logfire=False, console=False)
logfire.instrument_pydantic_ai()


def answer(messages, info):
    return ModelResponse(parts=[TextPart("Paris")], usage=RequestUsage(input_tokens=1000, output_tokens=10))


agent = Agent(FunctionModel(answer))
known = {"q1": "Paris", "q2": "Paris", "q3": "Paris"}


def asks(question: str) -> str:
    return agent.run_sync(question).output


def looks_first(question: str) -> str:
    return known.get(question) or asks(question)


dataset = Dataset(name="capitals", cases=[Case(name=f"q{it}", inputs=f"q{it}") for it in range(1, 5)])
for task in (asks, looks_first):
    report = dataset.evaluate_sync(task, progress=False)
    used = sum(case.metrics.get("input_tokens", 0) for case in report.cases)
    means = report.averages().metrics
    name = task.__name__.replace("_", " ")
    print(f"{name}: {used:,} input tokens in 4 cases; average {means['input_tokens']}, requests {means['requests']}")
PYTHON
timeout 120 "$folder/env/bin/python" -P "$folder/seen.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
asks: 4,000 input tokens in 4 cases; average 1000.0, requests 1.0
looks first: 1,000 input tokens in 4 cases; average 1000.0, requests 1.0
SEEN
