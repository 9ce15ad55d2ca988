"""One OpenTelemetry span a request, by the conventions for generative AI; no content.

Attributes are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/ and, for what they have no word for,
`tiercel.*`.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from tiercel._version import __version__
from tiercel.errors import MissingExtraError
from tiercel.gateway.exchange import Exchange

__all__ = ["Spans"]

_KINDS = {"openai": "openai", "azure": "azure.ai.openai", "anthropic": "anthropic"}
"""What the conventions call a dialect: for them, whoever speaks OpenAI's is `openai`."""
_EXPORT_S = 5.0
"""Longest time for one call of the collector."""
_CLOSE_S = 5.0
"""Longest time for the last spans; a collector that does not answer must not hold up the program's end."""
_OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings"}


class Spans:
    """Sends spans to a collector.

    Args:
        endpoint: base URL of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318.
        exporter: takes the spans instead; for tests and for other collectors.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, exporter: Any = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtraError("opentelemetry-sdk", "telemetry") from None
        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        service = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "tiercel"), "service.version": __version__}
        self._provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tiercel", __version__)

    def record(self, exchange: Exchange, kind: str | None = None) -> None:
        """Make a span of an exchange that has ended.

        Args:
            exchange: that has.
            kind: dialect of the provider that answered; None where none did.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = _OPERATIONS.get(exchange.api, "chat")
        parent = None
        if exchange.traceparent:
            parent = TraceContextTextMapPropagator().extract({"traceparent": exchange.traceparent})
        began = int(exchange.created * 1e9)
        span = self._tracer.start_span(
            f"{operation} {exchange.model or ''}".strip(),
            context=parent,
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={n: value for n, value in _attributes(exchange, operation, kind).items() if value is not None},
        )
        if failure := _failure(exchange):
            span.set_attribute("error.type", failure)
            if not 400 <= exchange.status < 499:  # those are the client's own doing, and no error of a server's span
                span.set_status(Status(StatusCode.ERROR))
        span.end(began + int(exchange.latency_s * 1e9))

    def close(self) -> None:
        """Send what is left, as far as there is time."""
        last = threading.Thread(target=self._provider.shutdown, name="tiercel-last-spans", daemon=True)
        last.start()
        last.join(_CLOSE_S)


def _failure(exchange: Exchange) -> str | None:
    if exchange.status >= 400:
        return str(exchange.status)
    # Of a stream that broke off after its first byte, the status says that all is well.
    return exchange.reason.replace(" ", "_") if exchange.reason.startswith("stream ") else None


def _attributes(exchange: Exchange, operation: str, kind: str | None) -> dict[str, Any]:
    usage = exchange.usage
    asked = (exchange.body or {}).get("model")
    own = "tiercel" if exchange.tier in ("student", "cache") else None
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _KINDS.get(kind or "") or own,
        "gen_ai.request.model": asked if isinstance(asked, str) else None,
        "gen_ai.request.stream": exchange.stream,
        "gen_ai.response.model": exchange.model,
        "gen_ai.response.time_to_first_chunk": exchange.first_byte_s if exchange.stream else None,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens if usage else None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens if usage else None,
        "http.response.status_code": exchange.status,
        "tiercel.id": exchange.id,
        "tiercel.api": exchange.api,
        "tiercel.tier": exchange.tier,
        "tiercel.reason": exchange.reason,
        "tiercel.provider": exchange.provider,
        "tiercel.workload": exchange.workload.name if exchange.workload else None,
        "tiercel.confidence": exchange.confidence,
        "tiercel.cost_usd": exchange.cost_usd,
        "tiercel.frontier_cost_usd": exchange.frontier_cost_usd,
        "tiercel.first_byte_s": exchange.first_byte_s,
    }
