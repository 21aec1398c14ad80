"""FastAPI as its documentation writes it: a typed body, a coroutine, orjson for the answer; ``/raw`` without types."""

import os
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from model import Model
from pydantic import BaseModel

# Every file that MODEL_FILES names as MODEL=PATH is loaded; the first of each model answers.
LOADED: dict[str, list[Model]] = {}
for entry in os.environ.get("MODEL_FILES", f"{os.environ['MODEL_NAME']}={os.environ['MODEL_FILE']}").split(","):
    name, _, path = entry.partition("=")
    LOADED.setdefault(name, []).append(Model(path))
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


def answer(name: str, inputs) -> Response:
    """Run a model. Text is an object array, which orjson takes as a list alone."""
    model = LOADED[name][0]
    arrays = model.run(model.feed(inputs))
    document = model.document(arrays, tolist=any(array.dtype == object for array in arrays))
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """For whoever waits."""
    return {"ready": True}


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: InferRequest) -> Response:
    """The usual way."""
    return answer(model, [tensor.model_dump() for tensor in request.inputs])


@app.post("/raw/{model}")
async def raw(model: str, request: Request) -> Response:
    """The least that the framework allows."""
    return answer(model, orjson.loads(await request.body())["inputs"])
