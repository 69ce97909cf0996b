"""The steps of an encoder layer as kernels of their own: a plug-in for `benchmarks/walkthrough.py`.

Each is given the inputs and weights of a whole layer; what comes before its step is made ready before it is
timed. As the harness expects the output of a layer, a step returns a tensor of that size that is not its
own: it can be timed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload


def _calls(shape: Any, inputs: ModuleInputs) -> tuple[Mapping[str, Callable[[], Any]], Any]:
    """Each step as a call without arguments, and a tensor `[B, L, E]`."""
    import torch
    from torch.nn.functional import linear

    from attnbench_impls.modules import EncoderLayer, over

    def layer_over(core: str) -> EncoderLayer:
        sizes = (shape.embed_dim, shape.heads, shape.ff_dim, 0.0)
        module = EncoderLayer(*sizes, batch_first=True, device="meta", core=core)
        return over(module, inputs.parameters).eval()

    layer, layer_sdpa, x = layer_over("naive"), layer_over("sdpa"), inputs.tensors["src"]
    attention, scale = layer.self_attn, shape.head_dim**-0.5
    w_in = inputs.parameters["self_attn.in_proj_weight"]
    b_in = inputs.parameters["self_attn.in_proj_bias"]
    q, k, v = (
        each.view(*each.shape[:-1], shape.heads, -1).transpose(1, 2)  # [B, H, L, D]
        for each in linear(x, w_in, b_in).chunk(3, dim=-1)
    )
    weights = torch.softmax((q * scale) @ k.mT, dim=-1)
    heads = (weights @ v).transpose(1, 2).flatten(-2)
    attended = attention.out_proj(heads)
    fed = layer.linear2(layer.linear1(attended).relu())
    calls = {
        "scores": lambda: torch.softmax((q * scale) @ k.mT, dim=-1),
        "weighted_sum": lambda: weights @ v,
        "projections": lambda: (linear(x, w_in, b_in), attention.out_proj(heads)),
        "mha": lambda: attention(x, x, x, need_weights=False),
        "feed_forward": lambda: layer.linear2(layer.linear1(attended).relu()),
        "norms": lambda: layer.norm2(layer.norm1(x + attended) + fed),
        "layer": lambda: layer(x),
        "layer_sdpa": lambda: layer_sdpa(x),
    }
    return calls, attended


def _step(name: str, told: str) -> Implementation:
    """The step `name`, told as `told`."""

    def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
        del options

        def kernel(inputs: ModuleInputs) -> Any:
            calls, output = inputs.kept("steps", lambda: _calls(workload.shape, inputs))
            calls[name]()
            return output

        return kernel

    return Implementation(
        name=f"walkthrough_{name}", operation="encoder_layer", framework="torch", summary=told, load=load
    )


SCORES = _step("scores", "scores, softmax")
WEIGHTED_SUM = _step("weighted_sum", "weighted sum")
PROJECTIONS = _step("projections", "four projections")
MHA = _step("mha", "whole multi-head attention")
FEED_FORWARD = _step("feed_forward", "feed-forward")
NORMS = _step("norms", "norms, residuals")
LAYER = _step("layer", "whole layer")
LAYER_SDPA = _step("layer_sdpa", "whole layer, core sdpa")
