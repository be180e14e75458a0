"""`/metrics`: what the gateway counts, and what waits and works in the whole system, in Prometheus's own form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mutirao import queue_stats
from mutirao.gateway.endpoint import endpoint
from mutirao.gateway.openapi.route_doc import RouteDoc
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses.response import Response
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.state.metrics import SECONDS, Histogram, Metrics
from mutirao.queue_stats import QueueDepth
from mutirao.registry import Registry


@endpoint("GET", "/metrics", doc=RouteDoc(tag="Operation", forms=("text/plain",), refusals=(503,)))
async def metrics(gateway: Gateway, request: Request) -> Response:
    """Return Prometheus metrics of requests, waits and queues; queues are counted also while no worker is alive."""
    request.caller.require("operate")
    known = await gateway.registry()
    lines = await gateway.queue_stats.of(tuple(known.models))
    waits = GaugeMetricFamily("mutirao_open_waits", "Waits and streams that are open.", value=len(gateway.open_waits))
    families = [*_own(gateway.metrics), waits, *_fleet(known), *_queues(known, lines)]
    return Response(200, written(families), CONTENT_TYPE_LATEST)


routes: list[Any] = [metrics]


def written(families: Iterable[Metric]) -> bytes:
    """Write metrics as Prometheus reads them."""
    text: bytes = generate_latest(SimpleNamespace(collect=lambda: families))  # all that it asks of a registry
    return text


def _own(metrics: Metrics) -> Iterator[Metric]:
    requests = CounterMetricFamily("mutirao_http_requests", "Requests by route.", labels=("route", "method", "status"))
    for (route, method, status), count in metrics.requests.items():
        requests.add_metric((route, method, str(status)), count)
    yield requests
    yield _histogram(
        "mutirao_http_request_seconds", "From a request's headers to its answer.", "route", metrics.seconds
    )
    yield _histogram("mutirao_job_wait_seconds", "From a job's submit to its end.", "model", metrics.job_waits)
    yield _histogram("mutirao_job_queue_seconds", "How long a job lay in its queue.", "model", metrics.job_queues)
    rows = CounterMetricFamily("mutirao_rows", "Rows that this gateway has queued.", labels=("model",))
    for model, count in metrics.rows.items():
        rows.add_metric((model,), count)
    yield rows


def _fleet(known: Registry) -> Iterator[Metric]:
    workers = GaugeMetricFamily("mutirao_workers", "Live workers that serve the model.", labels=("model",))
    for name, info in known.models.items():
        workers.add_metric((name,), info.workers)
    yield workers


def _queues(known: Registry, lines: Mapping[str, tuple[QueueDepth, ...]]) -> Iterator[Metric]:
    """Return the depths of each tenant's queue; that of requests without a tenant has the tenant ""."""
    labels = ("model", "tenant")
    requests = GaugeMetricFamily("mutirao_queue_requests", "Requests that wait.", labels=labels)
    rows = GaugeMetricFamily("mutirao_queue_rows", "Rows that wait.", labels=labels)
    oldest = GaugeMetricFamily("mutirao_queue_oldest_seconds", "How long the oldest has waited.", labels=labels)
    drain = GaugeMetricFamily(
        "mutirao_queue_drain_seconds",
        "When all rows that wait will have been served; with no live worker, by one worker at its last known speed.",
        labels=labels,
    )
    for depth in (depth for name in sorted(lines) for depth in lines[name]):
        at = (depth.model, depth.tenant)
        requests.add_metric(at, depth.requests)
        rows.add_metric(at, depth.rows)
        oldest.add_metric(at, depth.oldest_s or 0.0)
        seconds = queue_stats.drain_s(depth.rows, _speed(known, depth.model))
        if seconds is not None:
            drain.add_metric(at, seconds)
    yield from (requests, rows, oldest, drain)


def _speed(known: Registry, model: str) -> float:
    info = known.models.get(model)
    return known.speed(model) or (info.speed if info else 0.0)


def _histogram(name: str, says: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, says, labels=(label,))
    bounds = [*map(str, SECONDS), "+Inf"]
    for value, histogram in found.items():
        family.add_metric((value,), list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
