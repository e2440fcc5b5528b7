"""Spans of OpenTelemetry, in a process of their own: a program has one tracer provider."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TRACED = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
from alexnet_deploy.serving.tracing import span

parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
with span("request", parent=parent, path="/classify"), span("decode", images=2):
    pass
print(json.dumps([[s.name, f"{s.context.trace_id:032x}", dict(s.attributes)] for s in memory.get_finished_spans()]))
"""

UNTRACED = """
import sys
sys.modules["opentelemetry"] = None
from alexnet_deploy.serving.tracing import span
with span("request", path="/classify"), span("decode", images=2):
    print("answered")
"""


def test_a_request_continues_the_trace_of_its_caller() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")
    ran = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=True)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    assert json.loads(ran.stdout) == [
        ["decode", trace_id, {"images": 2}],
        ["request", trace_id, {"path": "/classify"}],
    ]


def test_without_opentelemetry_nothing_is_recorded() -> None:
    ran = subprocess.run([sys.executable, "-c", UNTRACED], capture_output=True, text=True, check=True)
    assert ran.stdout == "answered\n"
