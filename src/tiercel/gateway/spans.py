"""One OpenTelemetry span a request, by the conventions for generative AI; no content.

Attributes are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/ and, for what they have no word for,
`tiercel.*`.
"""

from __future__ import annotations

from typing import Any

from tiercel._version import __version__
from tiercel.errors import MissingExtraError
from tiercel.gateway.exchange import Exchange

__all__ = ["Spans"]

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

            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self.endpoint = endpoint
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "tiercel", "service.version": __version__})
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tiercel", __version__)

    def record(self, exchange: Exchange) -> None:
        """Make a span of an exchange that has ended."""
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
            attributes={name: value for name, value in _attributes(exchange, operation).items() if value is not None},
        )
        if exchange.status >= 400:
            span.set_attribute("error.type", str(exchange.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end(began + int(exchange.latency_s * 1e9))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _attributes(exchange: Exchange, operation: str) -> dict[str, Any]:
    usage = exchange.usage
    asked = (exchange.body or {}).get("model")
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": exchange.provider or ("tiercel" if exchange.tier in ("student", "cache") else None),
        "gen_ai.request.model": asked if isinstance(asked, str) else None,
        "gen_ai.response.model": exchange.model,
        "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens if usage else None,
        "http.response.status_code": exchange.status,
        "tiercel.id": exchange.id,
        "tiercel.tier": exchange.tier,
        "tiercel.reason": exchange.reason,
        "tiercel.workload": exchange.workload.name if exchange.workload else None,
        "tiercel.confidence": exchange.confidence,
        "tiercel.cost_usd": exchange.cost_usd,
        "tiercel.frontier_cost_usd": exchange.frontier_cost_usd,
        "tiercel.first_byte_s": exchange.first_byte_s,
    }
