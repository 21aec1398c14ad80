"""Servers of models: each with the same file, one worker, one thread, on the core of the system under test."""

import json
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loadtests.bench.machine import PEERS, ROOT, VENVS, Lab, answers, free_port, program
from loadtests.bench.target import Load, Question, Target
from loadtests.bench.turnout import commit, gateway
from loadtests.bench.workload import Workload
from loadtests.bench.wrk import CONNECTIONS, driver

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
OWN_PYTHON = str(ROOT / ".venv" / "bin" / "python")


def pinned_version(venv: str, package: str) -> str:
    """What the committed requirements of a peer say."""
    lines = (PEERS / f"{venv}.txt").read_text().lower().splitlines()
    return next((line.partition("==")[2] for line in lines if line.startswith(f"{package}==")), "?")


def environment(work: Workload, **more: str) -> dict[str, str]:
    """What the programs in ``peers`` read."""
    return {**ONE_THREAD, "PYTHONPATH": str(PEERS), "MODEL_FILE": str(work.file), "MODEL_NAME": work.model, **more}


def _target(
    lab: Lab, name: str, version: str, pid: int, port: int, work: Workload, asked: Question, note: str = ""
) -> Target:
    work.check(port, asked)
    return Target(name, version, pid, driver(lab, port, asked), port, note)


def start_fastapi(lab: Lab, env: Mapping[str, str]) -> tuple[int, int]:
    """FastAPI on uvicorn with uvloop and httptools; its process and port."""
    python = program("python", "fastapi")
    port, folder = free_port(), lab.folder("fastapi")
    command = [python, "-m", "uvicorn", "fastapi_app:app", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return lab.start(command, lab.sut_core, folder, answers(port, "/ready"), env), port


def fastapi(lab: Lab, work: Workload, *, name: str = "fastapi", path: str = "") -> Target:
    """FastAPI with one model."""
    pid, port = start_fastapi(lab, environment(work))
    return _target(lab, name, pinned_version("fastapi", "fastapi"), pid, port, work, work.json_question(path))


def starlette(lab: Lab, work: Workload) -> Target:
    """The same without types: raw bytes in, raw bytes out."""
    return fastapi(lab, work, name="fastapi raw", path=f"/raw/{work.model}")


def litserve(lab: Lab, work: Workload, *, batch: int = 1) -> Target:
    """LitServe with its fast queue."""
    python = program("python", "litserve")
    port, folder = free_port(), lab.folder("litserve")
    env = environment(work, PORT=str(port), MAX_BATCH=str(batch))
    pid = lab.start([python, str(PEERS / "litserve_app.py")], lab.sut_core, folder, answers(port, "/health"), env)
    name = "litserve" if batch == 1 else "litserve batching"
    return _target(lab, name, pinned_version("litserve", "litserve"), pid, port, work, work.json_question())


def mlserver(lab: Lab, work: Workload) -> Target:
    """MLServer without its worker pool."""
    binary = program("mlserver", "mlserver")
    port, folder = free_port(), lab.folder("mlserver")
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = folder / work.model
    model.mkdir()
    described = {"name": work.model, "implementation": "mlserver_app.OnnxRuntime", "parameters": {"version": "1"}}
    (model / "model-settings.json").write_text(json.dumps(described))
    ready = answers(port, f"/v2/models/{work.model}/ready")
    pid = lab.start([binary, "start", str(folder)], lab.sut_core, folder, ready, environment(work))
    return _target(lab, "mlserver", pinned_version("mlserver", "mlserver"), pid, port, work, work.json_question())


def bentoml(lab: Lab, work: Workload) -> Target:
    """A BentoML service."""
    binary = program("bentoml", "bentoml")
    port, folder = free_port(), lab.folder("bentoml")
    env = environment(work, BENTOML_DO_NOT_TRACK="true", BENTOML_HOME=str(folder))
    command = [binary, "serve", "bentoml_app:Service", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--working-dir", str(PEERS)]
    pid = lab.start(command, lab.sut_core, folder, answers(port, "/readyz"), env)
    return _target(lab, "bentoml", pinned_version("bentoml", "bentoml"), pid, port, work, work.json_question())


def triton(
    lab: Lab,
    work: Workload,
    *,
    core: int | None = None,
    batch: int = 0,
    rests: bool = True,
    grpc_port: int | None = None,
) -> Target:
    """tritonserver with the model in its python backend; with ``batch`` its dynamic batcher is on."""
    program("python", "triton")
    packages = next((VENVS / "triton" / "lib").glob("python3.*")) / "site-packages"
    stub = packages.parent.name.removeprefix("python")
    server = packages / "pytriton" / "tritonserver"
    folder = lab.folder("triton")
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(server / "python_backend_stubs" / stub / "triton_python_backend_stub", backend)
    model = folder / "repository" / work.model
    (model / "1").mkdir(parents=True)
    shutil.copy(PEERS / "triton_model.py", model / "1" / "model.py")
    (model / "config.pbtxt").write_text(triton_config(work, batch))
    port = free_port()
    command = [str(server / "bin" / "tritonserver"), "--model-repository", str(folder / "repository")]
    command += ["--backend-directory", str(folder / "backends"), "--allow-gpu-metrics=false"]
    for service, at in (("http", port), ("grpc", grpc_port or free_port()), ("metrics", free_port())):
        command += [f"--{service}-address", "127.0.0.1", f"--{service}-port", str(at)]
    command += ["--exit-timeout-secs", "2", "--http-thread-count", "1"]
    env = environment(
        work,
        LD_LIBRARY_PATH=str(packages / "nvidia_pytriton.libs"),
        MODEL_PACKAGES=str(packages),
        MODEL_FOLDER=str(PEERS),
    )
    ready = answers(port, f"/v2/models/{work.model}/ready")
    pid = lab.start(command, lab.sut_core if core is None else core, folder, ready, env)
    name = "triton batching" if batch else "triton"
    return replace(_target(lab, name, "2.51.0", pid, port, work, work.json_question()), rests=rests)


TRITON_TYPES = {"FP32": "TYPE_FP32", "BYTES": "TYPE_STRING", "INT64": "TYPE_INT64"}


def triton_config(work: Workload, batch: int) -> str:
    """``config.pbtxt`` of a model whose first axis is the batch."""
    leading = [] if batch else [-1]
    inputs = [
        f'{{ name: "{t["name"]}" data_type: {TRITON_TYPES[t["datatype"]]} dims: {leading + t["shape"][1:]} }}'
        for t in work.inputs[0]
    ]
    label = f'{{ name: "label" data_type: TYPE_INT64 dims: {[] if batch else [-1]} }}'
    if batch:
        label = '{ name: "label" data_type: TYPE_INT64 dims: [1] reshape: { shape: [] } }'
    outputs = [label, f'{{ name: "probabilities" data_type: TYPE_FP32 dims: {[*leading, 2]} }}']
    lines = [f'name: "{work.model}"', 'backend: "python"', f"max_batch_size: {batch}"]
    lines += [f"input [ {', '.join(inputs)} ]", f"output [ {', '.join(outputs)} ]"]
    lines += ["instance_group [ { count: 1 kind: KIND_CPU } ]"]
    if batch:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def in_process_route(model: str) -> dict[str, object]:
    """95/5, sticky, guarded; both versions are the same file, so that all contenders do the same work."""
    return {
        "model": model,
        "stable": "1",
        "variants": [{"version": "1", "weight": 95}, {"version": "2", "weight": 5}],
        "sticky": {"by": ["header:x-customer-id"]},
        "slo": {"errors": {"max_rate": 0.01}, "latency": {"p99_ms": 10000}},
    }


def repository(folder: Path, files: Mapping[str, Path], versions: Sequence[str] = ("1", "2")) -> Path:
    """A model repository of links."""
    for model, file in files.items():
        for version in versions:
            place = folder / "models" / model / version
            place.mkdir(parents=True)
            (place / "model.onnx").symlink_to(file)
    return folder / "models"


def turnout(
    lab: Lab, work: Workload, asked: Question | None = None, connections: int = CONNECTIONS, name: str = "turnout"
) -> Target:
    """turnout with the model in its process."""
    models = repository(lab.folder("models"), {work.model: work.file})
    process = gateway(lab, [in_process_route(work.model)], models)
    asked = asked or work.json_question()
    work.check(process.data_port, asked)
    drive = driver(lab, process.data_port, asked, connections)
    return Target(name, commit(), process.pid, drive, process.data_port, rests=False)


def bare(lab: Lab, work: Workload, batches: Sequence[int] = (1,), name: str = "bare session.run") -> Target:
    """The floor: a loop over ``session.run`` with arrays that are ready, with turnout's own onnxruntime."""
    port, folder = free_port(), lab.folder("bare")
    work.write_requests(folder / "requests")
    sizes = ",".join(map(str, batches))
    env = environment(work, PORT=str(port), REQUESTS=str(folder / "requests"), BATCHES=sizes)
    pid = lab.start([OWN_PYTHON, str(PEERS / "bare.py")], lab.sut_core, folder, answers(port, "/"), env)
    size = _bare_load(port, 0.5)[1]
    return Target(name, "", pid, lambda seconds: _bare_load(port, seconds)[0], 0, f"batch {size}" if size > 1 else "")


def _bare_load(port: int, seconds: float) -> tuple[Load, int]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{seconds}\n".encode())
        content = b"".join(iter(lambda: connection.recv(65536), b""))
    found = json.loads(content)
    done = found["requests"]
    return Load(done, done, found["seconds"], found["p50_us"], found["p99_us"]), found["size"]


PEERS_BY_NAME: Mapping[str, Callable[[Lab, Workload], Target]] = {
    "fastapi": fastapi,
    "fastapi raw": starlette,
    "litserve": litserve,
    "litserve batching": lambda lab, work: litserve(lab, work, batch=64),
    "mlserver": mlserver,
    "bentoml": bentoml,
    "triton": triton,
    "triton batching": lambda lab, work: triton(lab, work, batch=64),
}
