"""The feed-forward part of a layer: Vaswani et al. (2017), §3.3. It is applied to each position alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attnbench_impls.modules.arguments import (
    Activation,
    activation_of,
    check_features,
    check_probability,
    check_where,
    check_whole,
)

__all__ = ["FeedForward"]


class FeedForward(nn.Module):
    """What encoder and decoder layers share: linear2(activation(linear1(x))), with dropout between.

    A base class and no part of a layer, since in torch's `state_dict` these are a layer's own.
    """

    linear1: nn.Linear
    linear2: nn.Linear
    dropout: nn.Dropout
    activation: Activation

    def _make_feed_forward(
        self, d_model: int, dim_feedforward: int, dropout: float, bias: bool, where: dict[str, Any]
    ) -> None:
        check_whole("dim_feedforward", dim_feedforward)
        check_probability("dropout", dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias, **where)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias, **where)

    def _make_activation(self, activation: str | Activation) -> None:
        """Last of all, as in torch: one that has parameters is otherwise in another place among them."""
        self.activation = activation_of(activation)

    def _check_sequence(self, name: str, x: Tensor, attention: nn.Module) -> None:
        """`x` must be what `attention` can take, which may see it only after a norm.

        Raises:
            ValueError: it is not.
        """
        check_features(name, x, self.linear1.in_features)
        # Of a module `over` somebody's tensors, or of one put in the attention's place, there may be none.
        weight = next(attention.parameters(), None)
        if weight is not None:
            check_where(name, x, weight)

    def _feed_forward(self, x: Tensor) -> Tensor:
        """`[…, E]` to `[…, E]`, over `dim_feedforward` features."""
        hidden: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return hidden
