"""What GET /metrics tells. One process answers and computes, so that each number is of the whole server."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
prometheus.disable_created_metrics()


class Metrics:
    """Counters and histograms of one server. No text of a client or a model becomes one of their labels.

    Args:
        length: how many places of the queue are taken.
        open_bytes: memory of the models that are loaded.
    """

    def __init__(self, length: Callable[[], int], open_bytes: Callable[[], int]) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "lit_bert_requests", "Requests answered; 499 hung up.", ("path", "status"), registry=registry
        )
        self.texts = prometheus.Counter("lit_bert_texts", "Texts labelled.", registry=registry)
        self.rejected = prometheus.Counter(
            "lit_bert_rejected", "Requests refused, by the code of the error.", ("reason",), registry=registry
        )
        self.latency = prometheus.Histogram(
            "lit_bert_request_seconds",
            "Seconds from the head of a request for labels to its answer, of those answered with 200.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch = prometheus.Histogram(
            "lit_bert_batch_texts", "Texts computed at a time.", buckets=BATCH_BUCKETS, registry=registry
        )
        waiting = prometheus.Gauge(
            "lit_bert_queue_texts", "Texts that wait or are being computed.", registry=registry
        )
        waiting.set_function(length)
        self.loads = prometheus.Counter(
            "lit_bert_model_loads", "Models loaded since the start.", registry=registry
        )
        loaded = prometheus.Gauge(
            "lit_bert_loaded_models_bytes", "Memory of the models that are loaded.", registry=registry
        )
        loaded.set_function(open_bytes)
        prometheus.ProcessCollector(registry=registry)

    def text(self) -> bytes:
        """All of them in the text format of `prometheus.CONTENT_TYPE_LATEST`."""
        return prometheus.generate_latest(self.registry)
