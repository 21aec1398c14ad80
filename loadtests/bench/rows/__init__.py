"""Every row of the benchmark, by name."""

from collections.abc import Callable, Mapping

from loadtests.bench.row import Contest
from loadtests.bench.rows import latency, models, pipeline, proxy, scale, triton

ROWS: Mapping[str, Callable[[], Contest]] = {
    "proxy": proxy.proxy,
    "proxy-varied-heads": proxy.varied_heads,
    "mirror": proxy.mirror,
    "split-envoy": proxy.split_envoy,
    "model-json": models.model_json(models.CREDIT),
    "model-json-small": models.model_json(models.SMALL),
    "model-triton": models.model_triton(models.CREDIT),
    "model-triton-small": models.model_triton(models.SMALL),
    "model-throughput": models.throughput(models.CREDIT),
    "model-throughput-small": models.throughput(models.SMALL),
    "rows64-binary": models.rows64(models.CREDIT),
    "rows64-binary-small": models.rows64(models.SMALL),
    "sentiment": models.sentiment,
    "triton-front": triton.triton_front(models.CREDIT),
    "triton-front-small": triton.triton_front(models.SMALL),
    "latency-400": latency.latency,
    "many-models": scale.many_models,
    "pipeline-cost": pipeline.pipeline_cost,
    "shadow-hung": latency.shadow_hung,
    "rss": scale.rss,
}
