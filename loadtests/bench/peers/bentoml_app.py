"""A BentoML service: one worker, a coroutine."""

import os
from typing import Any

import bentoml
from model import Model


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Service:
    """The parameters of the method are the keys of the request."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(route=f"/v2/models/{os.environ['MODEL_NAME']}/infer")
    async def infer(self, inputs: list[dict[str, Any]], id: str = "") -> dict[str, Any]:
        return self.model.document(self.model.run(self.model.feed(inputs)))
