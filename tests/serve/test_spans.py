"""Spans of OpenTelemetry: by the conventions' own names, in the client's trace, without a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes

from tests.serve.gateways import Served, serving
from tokmagic.core.stream import Finished, Started, Usage
from tokmagic.engines.scripted import Script, ScriptedEngine

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


def ask(served: Served, **body: object) -> None:
    asked = {"messages": [{"role": "user", "content": "A secret."}], "temperature": 0, "stop": "x", **body}
    served.post("/v1/chat/completions", asked, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")


def test_a_request_is_a_span_of_its_clients_trace(exported: InMemorySpanExporter, tmp_path: Path) -> None:
    with serving(tmp_path, usd="0.00003") as served:
        ask(served, max_tokens=5)
        ask(served, max_tokens=5)  # the key is used up
    answered, refused = exported.get_finished_spans()
    assert (answered.name, answered.kind) == ("chat tiny", trace.SpanKind.SERVER)
    assert f"{answered.context.trace_id:032x}" == TRACE
    told = dict(answered.attributes or {})
    assert told["gen_ai.usage.input_tokens"] == 12
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert told["gen_ai.request.stop_sequences"] == ("x",)
    assert told["tokmagic.cost_usd"] == "0.000022"
    assert (answered.end_time or 0) >= (answered.start_time or 0)
    assert refused.status.status_code is trace.StatusCode.ERROR
    assert dict(refused.attributes or {})["error.type"] == "refused"
    assert all("secret" not in str(span.to_json()) for span in (answered, refused))


# The conventions for generative AI have moved out of OpenTelemetry's own, whose package keeps the names of that day.
RENAMED = "gen_ai.usage.cache_write.input_tokens"
BEFORE = "gen_ai.usage.cache_creation.input_tokens"


@pytest.mark.parametrize(("written", "told"), [(50, 50), (0, 0), (None, None)])
def test_cache_writes_are_told_by_the_name_of_today_and_by_that_of_before(
    exported: InMemorySpanExporter, tmp_path: Path, written: int | None, told: int | None
) -> None:
    asked = Usage(input_tokens=100, output_tokens=0, cached_input_tokens=10, cache_write_input_tokens=written)
    script = Script((Started(0, asked), Finished(9, ("stop",), replace(asked, output_tokens=2))))
    with serving(tmp_path, ScriptedEngine("tiny", [script])) as served:
        ask(served)
    attributes = exported.get_finished_spans()[-1].attributes or {}
    assert (attributes.get(RENAMED), attributes.get(BEFORE)) == (told, told)


def test_a_finish_reason_that_nobody_gave_is_left_out(exported: InMemorySpanExporter, tmp_path: Path) -> None:
    asked = Usage(input_tokens=100, output_tokens=0)
    script = Script((Started(0, asked), Finished(9, (None,), replace(asked, output_tokens=2))))
    with serving(tmp_path, ScriptedEngine("tiny", [script])) as served:
        ask(served)
    assert "gen_ai.response.finish_reasons" not in (exported.get_finished_spans()[-1].attributes or {})


def test_the_names_are_those_of_the_conventions(exported: InMemorySpanExporter) -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    known |= {error_attributes.ERROR_TYPE, RENAMED}
    names = {name for span in exported.get_finished_spans() for name in span.attributes or {}}
    assert {name for name in names if not name.startswith("tokmagic.")} <= known
