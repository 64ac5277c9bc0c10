"""What the service counts, for Prometheus."""

from __future__ import annotations

from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from flawmap.service.store import Result


class Measures:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.inspected = Counter(
            "flawmap_inspections", "Images inspected", ("model", "verdict"), registry=self._registry
        )
        self.failed = Counter("flawmap_failures", "Images without a result", ("code",), registry=self._registry)
        self.refused = Counter("flawmap_refused", "Images refused by a full queue", registry=self._registry)
        self.waiting = Gauge("flawmap_waiting", "Images that wait or are under work", registry=self._registry)
        self.seconds = Histogram("flawmap_inspection_seconds", "Seconds an image", ("model",), registry=self._registry)

    def count(self, result: Result) -> None:
        self.inspected.labels(result.model, result.verdict).inc()
        self.seconds.labels(result.model).observe(result.timings["inspected"])

    def answer(self) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
