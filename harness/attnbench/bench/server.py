"""The bench: holds the cases of one block and answers verbs about them, one at a time."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from attnbench.bench import accuracy, memory, rates, replay
from attnbench.bench.compiled import keep_by_case
from attnbench.bench.description import description
from attnbench.bench.devices import use, waiting_for, why_unavailable
from attnbench.bench.failures import Failure, Refusal, classify
from attnbench.bench.kept import kept_bytes
from attnbench.bench.kernel import LoadedCase, describe, load_case, why_unsupported
from attnbench.bench.settings import TorchSettings
from attnbench.bench.timed import Instruments, Timed
from attnbench.bench.weights import weights
from attnbench.implementation import Implementation
from attnbench.inputs import InputPool
from attnbench.protocol import (
    AccuracyReply,
    CeilingReply,
    Channel,
    ChannelClosed,
    DescribeReply,
    EnergyReply,
    MemoryReply,
    PrepareReply,
    SampleReply,
    VerifyReply,
    WeightsReply,
)
from attnbench.registry import Registry
from attnbench.workload import Workload

__all__ = ["BenchServer"]

#: What is asked of the verb `ceiling`.
CEILING_PARAMETERS = ("kind", "device", "dtype", "threads", "seconds")


@dataclass(slots=True)
class _Held:
    """A prepared case, the norms of its first results, and its timed call once it was sampled.

    `kept_bytes` is what its first call left behind. The timed call holds the graph of a backward pass.
    """

    case: LoadedCase
    scope: str
    norms: Mapping[str, float]
    kept_bytes: int
    timed: Timed


class BenchServer:
    """Answers a bench's verbs (see `attnbench.protocol`)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pool = InputPool()
        self._cases: dict[str, _Held] = {}
        self._instruments = Instruments()
        self._settings: TorchSettings | None = None
        self._pid = os.getpid()
        self._verbs: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "prepare": self._prepare,
            "reference": self._reference,
            "memory": self._memory,
            "accuracy": self._accuracy,
            "sample": self._sample,
            "energy": self._energy,
            "verify": self._verify,
            "weights": self._weights,
            "release": self._release,
            "describe": self._describe,
            "ceiling": self._ceiling,
        }

    def serve(self, channel: Channel) -> None:
        """Answer until the other end is gone."""
        try:
            while True:
                request = channel.receive()
                answer = self.answer(request)
                if os.getpid() != self._pid:
                    os._exit(1)  # a kernel forked, and its child came back here: only the bench may answer
                channel.send({"id": request.get("id"), **answer})
        except ChannelClosed:
            return

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request, without its id; whatever is raised becomes a failure."""
        failure: Failure
        try:
            verb = self._verbs.get(str(request.get("verb")))
            if verb is None:
                raise ValueError(f"there is no verb {request.get('verb')!r}; known: {', '.join(self._verbs)}")
            if self._settings is not None:
                self._settings.restore()  # the kernel asked last may have changed them for all
            return {"ok": True, **verb(request)}
        except BaseException as error:  # SystemExit too: a kernel does not end the bench
            failure = classify(error)
        gc.collect()  # what the failed call held is free only now that its traceback is gone
        return {"ok": False, "status": failure.status, "reason": failure.reason, "fatal": failure.fatal}

    def _prepare(self, request: Mapping[str, Any]) -> PrepareReply:
        if request.get("threads") is not None:
            import torch

            torch.set_num_threads(request["threads"])
        if request.get("poisoned") or request.get("deterministic"):
            accuracy.poison(fill=bool(request.get("poisoned")))
        options, device = request["options"], request["device"]
        unavailable = None if request.get("capable") else why_unavailable(device)
        if unavailable is None:
            use(device)
        self._settings = TorchSettings()
        scope = request.get("scope", "")
        keep_by_case(scope, request["case"])
        implementation = self._implementation(request["implementation"])
        workload = Workload.from_json(request["workload"])
        implementation.with_defaults(options)
        if not request.get("capable"):
            _refuse("unavailable", unavailable or implementation.available(device))
            _refuse("unsupported", why_unsupported(implementation, options, workload, device))
        reply = PrepareReply(
            framework=implementation.framework,
            first_call_s=None,
            resolved_backend=None,
            device_name=None,
            output_bytes=None,
        )
        if request.get("capability_only"):
            return reply
        case = load_case(implementation, options, workload, device, request["seed"], self._pool)
        reply["first_call_s"], norms = _first_call(case)
        reply["resolved_backend"] = case.resolved_backend()
        reply["device_name"] = case.device_name
        reply["output_bytes"] = case.output_bytes
        gc.collect()
        timed = Timed(case, self._instruments)
        self._cases[request["case"]] = _Held(case, scope, norms, kept_bytes(case), timed)
        gc.freeze()  # what the kernel imported, as what the bench did: not to be searched before every sample
        return reply

    def _reference(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compute what the workload's cases will be judged by, so that no kernel's time goes into it."""
        accuracy.make_standard(self._pool.drawn(Workload.from_json(request["workload"]), request["seed"]))
        return {}

    def _memory(self, request: Mapping[str, Any]) -> MemoryReply:
        held = self._held(request)
        case = held.case
        with case.grad_mode():
            return memory.measure(case.prepare_call, case.framework, case.device, held.kept_bytes)

    def _accuracy(self, request: Mapping[str, Any]) -> AccuracyReply:
        held = self._held(request)
        held.timed.forget()  # its graph would not outlive what is done to the inputs
        return accuracy.assess(held.case, own_precision=bool(request.get("own_precision")))

    def _sample(self, request: Mapping[str, Any]) -> SampleReply:
        held = self._held(request)
        return held.timed.sample(
            request["calls"], cold=request.get("cache") == "cold", cuda_graph=bool(request.get("cuda_graph"))
        )

    def _energy(self, request: Mapping[str, Any]) -> EnergyReply:
        held = self._held(request)
        return EnergyReply(energy_j=held.timed.energy_j(cuda_graph=bool(request.get("cuda_graph"))))

    def _verify(self, request: Mapping[str, Any]) -> VerifyReply:
        held = self._held(request)
        return VerifyReply(reason=replay.why_replayed(held.case, held.timed.call(), held.norms))

    def _weights(self, request: Mapping[str, Any]) -> WeightsReply:
        held = self._held(request)
        return weights(held.case, request["element"], request["heads"])

    def _release(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._cases.pop(request["case"], None)
        gc.collect()
        return {}

    def _describe(self, request: Mapping[str, Any]) -> DescribeReply:
        return description()

    def _ceiling(self, request: Mapping[str, Any]) -> CeilingReply:
        return rates.ceiling(**{name: request[name] for name in CEILING_PARAMETERS})

    def _implementation(self, name: str) -> Implementation:
        try:
            return self._registry.get(name)
        except KeyError as error:
            raise Refusal("unavailable", str(error.args[0])) from None

    def _held(self, request: Mapping[str, Any]) -> _Held:
        try:
            held = self._cases[request["case"]]
        except KeyError:
            raise KeyError(f"the case {request.get('case')!r} is not prepared in this bench") from None
        keep_by_case(held.scope, request["case"])  # any call may compile anew
        return held


def _refuse(status: str, reason: object) -> None:
    """Raise a `Refusal` with what somebody's `available` or `supports` gave as the reason, if it did."""
    if reason is None:
        return
    if not isinstance(reason, str):
        asked = {"unavailable": "available", "unsupported": "supports"}[status]
        raise TypeError(f"{asked} must return None or a reason in words, got {describe(reason)}")
    raise Refusal(status, reason)


def _first_call(case: LoadedCase) -> tuple[float, dict[str, float]]:
    """Seconds of the first call, which compiles and tunes, without what is built once; its norms.

    In a backward pass the first forward is part of it. The output is checked, after the clock has stopped.
    """
    inputs, wait = case.inputs, waiting_for(case.device)
    built = inputs.build_s
    began = perf_counter()
    call = case.prepare_call()
    with case.grad_mode():
        value = call()
    if wait is not None:
        wait()
    elapsed = perf_counter() - began
    norms = replay.norms(case.named(value))
    return max(0.0, elapsed - (inputs.build_s - built)), norms
