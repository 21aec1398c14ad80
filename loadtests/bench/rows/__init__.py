"""Every row of the benchmark, by name."""

from collections.abc import Callable, Mapping

from loadtests.bench.row import Contest
from loadtests.bench.rows import latency, models, pipeline, proxy, scale, triton

ROWS: Mapping[str, Callable[[], Contest]] = {
    "proxy": proxy.proxy,
    "proxy-varied-heads": proxy.varied_heads,
    "mirror": proxy.mirror,
    "split-envoy": proxy.split_envoy,
    "model-json": models.model_json(models.credit),
    "model-json-small": models.model_json(models.small_trees),
    "model-triton": models.model_triton(models.credit),
    "model-triton-small": models.model_triton(models.small_trees),
    "model-throughput": models.throughput(models.credit),
    "model-throughput-small": models.throughput(models.small_trees),
    "rows64-binary": models.rows64(models.credit),
    "rows64-binary-small": models.rows64(models.small_trees),
    "sentiment": models.sentiment,
    "triton-front": triton.triton_front(models.credit),
    "triton-front-small": triton.triton_front(models.small_trees),
    "triton-proxy": triton.triton_proxy(models.small_trees),
    "latency-400": latency.latency,
    "many-models": scale.many_models,
    "pipeline-cost": pipeline.pipeline_cost,
    "shadow-hung": latency.shadow_hung,
    "rss": scale.rss,
}
