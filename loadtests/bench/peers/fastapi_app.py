"""FastAPI as its documentation writes it: a typed body, a coroutine, orjson for the answer; ``/raw`` without types."""

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from model import Model
from pydantic import BaseModel

MODEL = Model()
app = FastAPI()


class Tensor(BaseModel):
    """An input."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferRequest(BaseModel):
    """A request of the protocol."""

    id: str | None = None
    inputs: list[Tensor]


def answer(inputs) -> Response:
    """Run the model."""
    document = MODEL.document(MODEL.run(MODEL.feed(inputs)), tolist=False)
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """For whoever waits."""
    return {"ready": True}


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: InferRequest) -> Response:
    """The usual way."""
    return answer([tensor.model_dump() for tensor in request.inputs])


@app.post("/raw")
async def raw(request: Request) -> Response:
    """The least that the framework allows."""
    return answer(orjson.loads(await request.body())["inputs"])
