"""A version on ONNX Runtime: requests to feeds, feeds to answers, several requests in one run."""

import logging
from collections.abc import Mapping, Sequence
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

from gateway.backends.base import Reply
from gateway.backends.onnx_session import OnnxSession, first_line
from gateway.backends.proof import are_alike, differ, trial_feeds
from gateway.backends.run_time import RunTime
from gateway.errors import error_body
from gateway.protocol.form import InferRequest
from gateway.protocol.response import AnswerWriter, NotFinite
from gateway.protocol.shapes import TensorSpec
from gateway.protocol.tensors import Array, Binder, Fit
from routing.analysis.outcome import Kind

log = logging.getLogger("turnout.backends")

WARM_UP_RUNS = 3
PROOF_RUNS = 3  # first runs of several requests whose answers are held against those of each request alone
PROOF_REQUESTS = 4  # of such a run that are run alone as well
PROOF_EVERY = 64  # runs of several requests; one request of each such is run alone as well, for as long as it serves
PROOF_LOOKS = 100  # runs among which such are looked for; where all requests are the same, there is nothing to prove
BROKEN_RUNS = 3  # runs of several requests that failed while each request alone went well, before no more are tried

_OK = Kind.OK  # a member of an enum is looked up by Python code each time
Values = list[Any]  # of one request's inputs, as its fit takes them


class _Answer(Reply):
    """A reply that went well, made in half the time."""

    __slots__ = ()

    def __init__(self, body: bytes, header_length: int | None) -> None:
        self.kind = _OK
        self.status = 200
        self.body = body
        self.header_length = header_length
        self.detail = ""
        self.is_checked = True
        self.own_s = None


class CannotRunTogether(Exception):
    """A run of several requests failed, or gave what cannot be divided; each must be run alone."""


class OnnxModel:
    """What a version does with requests. Its runs may be on any thread.

    Args:
        session: The loaded file.
        model: Name in the answers.
        version: The same.
        batching: Whether requests may share a run where the file allows it.

    Attributes:
        signature: Inputs and outputs.
        bind: How a request fits, and the values of its inputs.
        takes_batches: Requests may share a run: the first dimension of every input and output is free, and rows were
            not seen to depend on one another.
        note: What an operator should know.
    """

    def __init__(self, session: OnnxSession, model: str, version: str, *, batching: bool = True) -> None:
        self.signature = session.signature
        self.note = session.note
        self._session = session
        self.bind = Binder(session.signature, session.dims).bind
        self._writer = AnswerWriter(model, version)
        self._label = f"{model}/{version}"
        self._names = [spec.name for spec in session.signature.outputs]
        tensors = (*session.signature.inputs, *session.signature.outputs)
        self.takes_batches = batching and all(spec.shape and spec.shape[0] == -1 for spec in tensors)
        self._proofs_left = PROOF_RUNS
        self._looks_left = PROOF_LOOKS
        self._until_sample = PROOF_EVERY
        self._draws = Random()
        self._broken_left = BROKEN_RUNS

    def warm_up(self, run_time: RunTime) -> None:
        """Run on blank rows, the first of which is not observed, and try whether rows keep to themselves."""
        feeds = self._session.blank()
        self._session.prepare(feeds)
        for run in range(WARM_UP_RUNS):
            begin_s = perf_counter()
            try:
                self._session.run(self._names, feeds)
            except Exception:  # a model may refuse blank rows; it is judged by real ones
                return
            if run:
                run_time.observe(perf_counter() - begin_s, 1)
        if self.takes_batches:
            self._try_batch()

    def run(self, fit: Fit, values: Values, request: InferRequest) -> tuple[Reply, float]:
        """Run for one request.

        Returns:
            The reply, and how many seconds it took to write it.
        """
        feeds = fit.feeds(values)
        try:
            outputs = self._session.run(fit.names, feeds)
        except Exception as error:  # whatever a model's operators raise
            return _failed_run(error, feeds), 0.0
        begin_s = perf_counter()
        reply = self._answer(request, list(zip(fit.outputs, outputs, strict=True)))
        return reply, perf_counter() - begin_s

    def run_together(
        self, fits: Sequence[Fit], each: Sequence[Values], requests: Sequence[InferRequest], rows: Sequence[int]
    ) -> tuple[list[Reply], float, bool]:
        """Run once for requests that go together.

        Args:
            fits: How each fits.
            each: Values by request.
            requests: Who wants the answers.
            rows: Of each request.

        Returns:
            A reply for each, in order, how many seconds it took to write them, and whether runs of some requests alone
            were held against it.

        Raises:
            CannotRunTogether: Each must be run alone.
        """
        fit, whole = fits[0], sum(rows)
        names, specs = fit.names, fit.outputs
        joined = fit.joined(each, whole)
        try:
            values = self._session.run(names, joined)
        except Exception as error:  # one of them may be what the model cannot take
            raise CannotRunTogether from error
        for spec, value in zip(specs, values, strict=True):
            if len(value) != whole or not spec.admits(value.shape):
                raise CannotRunTogether
        self.trust_batches()
        is_proof = False
        if self._proofs_left and self._looks_left:
            self._looks_left -= 1
            some = [fit.feeds(its) for fit, its in zip(fits, each[:PROOF_REQUESTS], strict=False)]
            is_proof = differ(some)
            if is_proof:
                self._prove(names, some, rows, values)
        elif self._until_sample <= 1:
            is_proof, self._until_sample = True, PROOF_EVERY
            self._sample(fits, each, rows, values)
        else:
            self._until_sample -= 1
        begin_s = perf_counter()
        replies = self._answers(requests, rows, list(zip(specs, values, strict=True)))
        return replies, perf_counter() - begin_s, is_proof

    def doubt_batches(self) -> None:
        """A run of several requests failed. When nothing explains that for some times, there are no more."""
        self._broken_left -= 1
        if self._broken_left == 0 and self.takes_batches:
            self._stop_batching("requests that share a run fail, and each alone does not")

    def trust_batches(self) -> None:
        """One of the requests of a run that failed has failed alone too: it was not the sharing."""
        self._broken_left = BROKEN_RUNS

    def _try_batch(self) -> None:
        try:
            each = trial_feeds(self.signature)
            joined = {name: np.concatenate([feeds[name] for feeds in each]) for name in each[0]}
            self._prove(self._names, each, [1] * len(each), self._session.run(self._names, joined))
        except Exception:  # a model may refuse made-up rows; the first real ones will tell
            return

    def _prove(
        self, names: list[str], each: Sequence[dict[str, Array]], rows: Sequence[int], values: Sequence[Array]
    ) -> None:
        """Hold a run's outputs against those of each request alone."""
        at = 0
        for feeds, count in zip(each, rows, strict=False):
            self._compare(names, feeds, values, at, at + count)
            at += count
        self._proofs_left -= 1

    def _sample(
        self, fits: Sequence[Fit], each: Sequence[Values], rows: Sequence[int], values: Sequence[Array]
    ) -> None:
        """Hold one request's outputs against those of it alone: rows may mix for some values only."""
        chosen = self._draws.randrange(len(each))
        at = sum(rows[:chosen])
        self._compare(fits[0].names, fits[chosen].feeds(each[chosen]), values, at, at + rows[chosen])

    def _compare(
        self, names: list[str], feeds: dict[str, Array], values: Sequence[Array], begin: int, end: int
    ) -> None:
        if not are_alike(self._session.run(names, feeds), [value[begin:end] for value in values]):
            self._stop_batching("rows that share a run change one another's answers")
            raise CannotRunTogether

    def _stop_batching(self, why: str) -> None:
        self.takes_batches = False
        self.note = "; ".join(filter(None, (self.note, f"each request is run alone: {why}")))
        log.warning("no more batches", extra={"backend": self._label, "reason": why})

    def _answers(
        self, requests: Sequence[InferRequest], rows: Sequence[int], outputs: Sequence[tuple[TensorSpec, Array]]
    ) -> list[Reply]:
        if len(requests) == sum(rows):
            bodies = self._writer.write_rows(requests, outputs)
            if bodies is not None:
                return [_Answer(body, length) for body, length in bodies]
        replies = []
        at = 0
        for request, count in zip(requests, rows, strict=True):
            replies.append(self._answer(request, [(spec, value[at : at + count]) for spec, value in outputs]))
            at += count
        return replies

    def _answer(self, request: InferRequest, outputs: Sequence[tuple[TensorSpec, Array]]) -> Reply:
        for spec, value in outputs:
            if not spec.admits(np.shape(value)):
                shape = list(np.shape(value))
                problem = f"output {spec.name!r} has shape {shape}, {list(spec.shape)} was promised"
                return Reply(Kind.CONTRACT, 500, error_body(problem), detail=problem)
        try:
            body, header_length = self._writer.write(request, outputs)
        except NotFinite as error:
            return Reply(Kind.CONTRACT, 500, error_body(str(error)), detail=str(error))
        return _Answer(body, header_length)


def _failed_run(error: Exception, feeds: Mapping[str, Array]) -> Reply:
    if not all(array.size for array in feeds.values()):
        sentence = "this version does not take an empty batch"
        return Reply(Kind.REJECTED, 400, error_body(sentence), detail=sentence)
    sentence = f"the model failed: {first_line(error)}"
    return Reply(Kind.ERROR, 500, error_body(sentence), detail=sentence)
