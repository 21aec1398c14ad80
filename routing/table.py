"""A route as frozen values, each checked where it is made.

Limits across fields (weights that add up, a stable that is among the variants) are ``routing.parse``'s, so that
all problems of a document are reported at once.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

PPM = 1_000_000  # one is 0.0001 %; integers add up exactly, floats do not
MAX_VARIANTS = 32
MAX_SHADOWS = 8
MAX_STICKY_SOURCES = 8
MAX_URLS = 16  # servers of one version

NAME_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,127}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ModelName = Name
VersionName = Name
Ppm = Annotated[int, Field(strict=True, ge=0, le=PPM)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=3_600_000, allow_inf_nan=False)]


class Value(BaseModel):
    """Base of all document values: frozen, unknown keys refused."""

    # The regex engine of the standard library knows the look-ahead that keeps ``..`` out of names.
    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")


class Variant(Value):
    """A version that may answer requests for a route.

    Attributes:
        version: Name of the immutable build, unique within its route.
        weight_ppm: Share of live traffic in parts per million, 0 to 1,000,000.
    """

    version: VersionName
    weight_ppm: Ppm


class Shadow(Value):
    """A version that gets copies and never answers.

    Attributes:
        version: Name of the build.
        sample_ppm: Share of keys whose requests are copied, in parts per million.
        timeout_ms: Time after which a copy is given up.
        max_body_kb: Larger requests are not copied.
        compare: Whether its answers are held against stable's.
    """

    version: VersionName
    sample_ppm: Ppm = PPM
    timeout_ms: Milliseconds = 1000
    max_body_kb: Annotated[int, Field(strict=True, gt=0, le=1 << 20)] = 65_536
    compare: Annotated[bool, Field(strict=True)] = True

    @model_serializer(mode="wrap")
    def _without_the_usual(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``compare`` only where it is off, as in documents that were written before it was there."""
        plain: dict[str, Any] = dump(self)
        if self.compare:
            del plain["compare"]
        return plain


StickySource = Annotated[
    str, StringConstraints(pattern=r"^(header|cookie):[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$", to_lower=False)
]


class Sticky(Value):
    """Where the key comes from that keeps a caller on one version.

    Attributes:
        by: ``header:NAME`` or ``cookie:NAME``; the first that a request carries wins.
        salt: Draws anew when changed; the model's name by default.
    """

    by: Annotated[tuple[StickySource, ...], Field(min_length=1, max_length=MAX_STICKY_SOURCES)]
    salt: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class ErrorsSlo(Value):
    """At most ``max_rate`` of the canary's attempts may fail.

    Attributes:
        max_rate: Largest tolerated rate, 0.00001 to 0.5.
        tolerated_ratio: Canary's rate over stable's that a rollout still accepts.
    """

    max_rate: Annotated[float, Field(strict=True, ge=1e-5, le=0.5)]
    tolerated_ratio: Annotated[float, Field(strict=True, ge=1, le=100)] = 1.25


class LatencySlo(Value):
    """``p99_ms: 50`` means at most 1 % of answers may take longer than 50 ms; at least one of the three is given."""

    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    tolerated_slowdown: Annotated[float, Field(strict=True, ge=1, le=100)] = 1.19

    def largest_ms(self) -> float:
        """The largest threshold that is set."""
        return max(ms for ms in (self.p50_ms, self.p95_ms, self.p99_ms) if ms is not None)


class Slo(Value):
    """What a canary must keep to; absent parts leave the fuse alone."""

    errors: ErrorsSlo | None = None
    latency: LatencySlo | None = None


class OnnxSpec(Value):
    """In process on ONNX Runtime, from ``models/{model}/{version}/model.onnx``.

    Attributes:
        device: ``cuda`` asks for the GPU; a version that does not get it says so.
        threads: Threads of one run inside ONNX Runtime.
        batching: ``off`` runs each request alone; ``auto`` runs together what comes together, if the model can.
    """

    kind: Literal["onnx"] = "onnx"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    batching: Literal["auto", "off"] = "auto"


Url = Annotated[str, StringConstraints(pattern=r"^http://[^/?#@\s]+$", max_length=256)]
TritonUrl = Annotated[str, StringConstraints(pattern=r"^(http|grpc)://[^/?#@\s]+$", max_length=256)]


class RemoteSpec(Value):
    """Servers that all run the version: one ``url``, or several ``urls``.

    Attributes:
        url: ``http://host:port``, of Triton ``grpc://host:port`` too.
        urls: The same of each server, no two alike; the one with the fewest calls in flight is asked.
        model: Its name there, the route's model by default.
        version: Its version there, the variant's by default.
    """

    kind: str
    url: Url | None = None
    urls: Annotated[tuple[Url, ...], Field(min_length=1, max_length=MAX_URLS)] | None = None
    model: Name | None = None
    version: Name | None = None

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        if self.url is None and self.urls is None:
            raise PydanticCustomError("no_url", "give `url`, or `urls` with one entry for each server")
        if self.url is not None and self.urls is not None:
            raise PydanticCustomError("both_urls", "give `url` or `urls`, not both")
        for index, url in enumerate(self.urls or ()):
            if self.urls is not None and url in self.urls[:index]:
                raise PydanticCustomError("same_urls", "{url} is listed twice", {"url": url, "index": index})
        return self

    @model_serializer(mode="wrap")
    def _without_the_other(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``url`` or ``urls``: the one that was given, so that a document reads back as it was written."""
        plain: dict[str, Any] = dump(self)
        del plain["urls" if self.urls is None else "url"]
        if not plain.get("manage", True):  # as in documents that were written before it was there
            del plain["manage"]
        return plain

    def addresses(self) -> tuple[str, ...]:
        """All servers."""
        return self.urls or ((self.url,) if self.url else ())


class OipSpec(RemoteSpec):
    """Servers of the Open Inference Protocol v2."""

    kind: Literal["oip"]


class TritonSpec(RemoteSpec):
    """Triton, over HTTP or gRPC. Versions are numbers there, and every answer has to name the one that was asked.

    Attributes:
        manage: The gateway loads the model there when it is needed and unloads it when nothing uses it.
    """

    kind: Literal["triton"]
    url: TritonUrl | None = None
    urls: Annotated[tuple[TritonUrl, ...], Field(min_length=1, max_length=MAX_URLS)] | None = None
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")] | None = None
    manage: Annotated[bool, Field(strict=True)] = False


BackendSpec = Annotated[OnnxSpec | OipSpec | TritonSpec, Field(discriminator="kind")]


class Route(Value):
    """How requests for one model are divided.

    Attributes:
        model: What clients ask for.
        stable: The variant that is always safe; it owns every key that no canary owns.
        variants: Versions that may answer; their weights add up to 1,000,000.
        sticky: Absent: every request is an independent draw.
        shadows: Versions that get copies.
        slo: Absent: the fuse alone guards the canaries.
        on_failure: ``retry_stable`` asks stable when a canary fails, ``pass`` gives its failure to the client.
        side_effects: A request must not run twice: no failover, no copies.
        enforce: False: guards report what they would have done and never act.
        backends: Where versions run; the ONNX model repository by default.
    """

    model: ModelName
    stable: VersionName
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=MAX_VARIANTS)]
    sticky: Sticky | None = None
    shadows: Annotated[tuple[Shadow, ...], Field(max_length=MAX_SHADOWS)] = ()
    slo: Slo | None = None
    on_failure: Literal["retry_stable", "pass"] = "retry_stable"
    side_effects: bool = Field(default=False, strict=True)
    enforce: bool = Field(default=True, strict=True)
    backends: dict[VersionName, BackendSpec] = Field(default_factory=dict)

    def weights(self) -> dict[str, int]:
        """Weight in ppm by version, in the order of the variants."""
        return {variant.version: variant.weight_ppm for variant in self.variants}

    def versions(self) -> tuple[str, ...]:
        """Every version that the route names: variants first, then shadows."""
        return tuple(dict.fromkeys([v.version for v in self.variants] + [s.version for s in self.shadows]))

    def backend(self, version: str) -> OnnxSpec | OipSpec | TritonSpec:
        """Where ``version`` runs."""
        return self.backends.get(version, ONNX_DEFAULT)

    def canaries(self) -> tuple[str, ...]:
        """Versions with weight other than stable."""
        return tuple(v.version for v in self.variants if v.weight_ppm > 0 and v.version != self.stable)


ONNX_DEFAULT = OnnxSpec()
