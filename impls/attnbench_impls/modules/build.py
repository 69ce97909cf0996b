"""A module over tensors that somebody else holds, so that gradients reach those very tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["over"]

Module = TypeVar("Module", bound=nn.Module)


def over(module: Module, parameters: Mapping[str, Tensor]) -> Module:
    """`module`, computing with the given tensors themselves in place of its parameters.

    `parameters` maps the name of each of its parameters to a tensor of that shape, which may be a leaf that
    requires gradients. Nothing is copied. Build the module with `device="meta"`, so that its own parameters
    cost nothing. It has none afterwards: `state_dict()` is empty, and `to()` moves nothing. This works for
    any `nn.Module` that reads its parameters as attributes, torch's among them.
    (`load_state_dict(assign=True)` makes new Parameters of the tensors: no gradient reaches those given.)

    Raises:
        ValueError: names or shapes that are not the module's; it is then unchanged.
    """
    own = dict(module.named_parameters(remove_duplicate=False))
    if own.keys() != parameters.keys():
        missing, superfluous = sorted(own.keys() - parameters.keys()), sorted(parameters.keys() - own.keys())
        raise ValueError(
            f"the parameters must be those of {type(module).__name__}; missing: {missing or 'none'}, "
            f"superfluous: {superfluous or 'none'}"
        )
    for name, parameter in own.items():
        if parameter.shape != parameters[name].shape:
            raise ValueError(
                f"{name} must have the shape {list(parameter.shape)}; got {list(parameters[name].shape)}"
            )
    for name, tensor in parameters.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        # A module refuses plain tensors under the name of a parameter: it has to forget that first.
        delattr(owner, attribute)
        setattr(owner, attribute, tensor)
    return module
