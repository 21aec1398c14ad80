"""LitServe: one worker, its fast queue, with and without batching."""

import os

import litserve
from model import Model, split, stack


class Api(litserve.LitAPI):
    """One request after the other."""

    def setup(self, device):
        self.model = Model()

    def decode_request(self, request):
        return self.model.feed(request["inputs"])

    def predict(self, feed):
        return self.model.run(feed)

    def encode_response(self, output):
        return self.model.document(output)


class BatchApi(Api):
    """Requests that wait are run together."""

    def batch(self, inputs):
        return stack(inputs)

    def predict(self, batched):
        feed, rows = batched
        return self.model.run(feed), rows

    def unbatch(self, output):
        return split(*output)


if __name__ == "__main__":
    batch = int(os.environ["MAX_BATCH"])
    path = f"/v2/models/{os.environ['MODEL_NAME']}/infer"
    api = BatchApi(max_batch_size=batch, batch_timeout=0.001, api_path=path) if batch > 1 else Api(api_path=path)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, log_level="warning",
        generate_client_file=False, access_log=False,
    )  # fmt: skip
