"""BERT on a CPU: the values of transformers' classifiers in fewer and cheaper operations.

Serves every architecture of BERT's structure: `encoders.parts.Parts` names them its parts are.

Used where there is no GPU. The parameters stay those of the transformers network; only the
way to its logits differs:

- The last layer is computed for the [CLS] token alone, the only one that the classifier reads.
- Each layer is one autograd node with a backward of its own: weights cast once a step and activations never,
  keys and values from one product, sums folded into the products that follow.
- Dropout masks are 16 random bits an element from SFC64 instead of one Bernoulli draw each.
- Batches in which no text is padded have no attention mask.

    python -m benchmarks.profile lit_bert
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear
from torch.nn.utils import parametrize

from lit_bert.encoders.parts import Layer, Parts
from lit_bert.encoders.table import encoder_of

aten = torch.ops.aten
VALUES = 5  # the first argument of `_LayerFunction` that is a weight
# Of keys and values, queries, attention's output, up, down: their weights and biases among these arguments.
FACTORS = (slice(2, 6), slice(0, 2), slice(6, 8), slice(8, 10), slice(10, 12))


class CpuBert:
    """Logits of a network on a CPU, in the precision of the surrounding autocast.

    Holds no parameters: gradients go to those of `network`, which can be changed, saved and moved as ever. A
    write to them through `.data` between two evaluations, without a training step, goes unseen.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.parts: Parts = encoder_of(network).parts_of(network)
        self.layers = [_Layer(layer, self.parts.heads) for layer in self.parts.layers]
        self.dropout = Dropout()

    @staticmethod
    def can_run(network: Any) -> bool:
        """Whether the network has BERT's structure, in 32 bits on a CPU: one with adapters has not."""
        config, encoder = network.config, encoder_of(network)
        if not encoder.fast or not encoder.has_parts(network):
            return False
        if (network.device.type, network.dtype) != ("cpu", torch.float32):
            return False
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            return False
        if getattr(config, "hidden_act", None) != "gelu" and getattr(config, "activation", None) != "gelu":
            return False
        layers = encoder.layers_of(network)
        linears = [each for each in network.modules() if isinstance(each, nn.Linear)]
        within = sum(isinstance(each, nn.Linear) for each in layers.modules())
        return within == 6 * config.num_hidden_layers and all(
            parametrize.type_before_parametrizations(each) is nn.Linear and each.bias is not None
            for each in linears
        )

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits, float32 (B, C), of texts given as int64 (B, T), right-padded; types None: all 0."""
        states = self.encode(input_ids, attention_mask, 1, token_type_ids)[:, 0]  # of the first token
        with torch.autocast("cpu", enabled=False):
            return self.parts.head(states)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        leading: int,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states, float32 (B, leading, H), of the `leading` tokens of each text: 1 or all T."""
        network, parts, (B, T) = self.network, self.parts, input_ids.shape
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        with torch.autocast("cpu", enabled=False):
            mask = None
            if not attention_mask.all():
                mask = torch.zeros(B, 1, T, T, dtype=dtype)  # rows alike: longer runs are added faster
                mask.masked_fill_(attention_mask[:, None, None] == 0, torch.finfo(dtype).min)
            H, E, heads = network.config.hidden_size, parts.embeddings.words.embedding_dim, parts.heads
            rows = [B * T] * (len(self.layers) - 1) + [B * leading]  # that each layer computes
            hidden_p, attention_p = (p * network.training for p in parts.dropout)
            places = 2 if parts.drops_attended else 1  # in a layer
            hidden_shapes = [(B * T, E), *((count, H) for count in rows for _ in range(places))]
            embedded_mask, *hidden_masks = self.dropout.masks(hidden_shapes, hidden_p, dtype)
            attention_shapes = [(B * heads, count // B, T) for count in rows]
            attention_masks = self.dropout.masks(attention_shapes, attention_p, dtype)
            x = self._embed(input_ids, attention_mask, token_type_ids).view(B * T, E).to(dtype)
            if embedded_mask is not None:
                x = x * embedded_mask
            if (projection := parts.embeddings.projection) is not None:
                x = linear(x, projection.weight.to(dtype), projection.bias.to(dtype))
            for index, layer in enumerate(self.layers):
                values = layer.values()
                layer.cast(values, dtype, network.training)
                own = hidden_masks[places * index : places * (index + 1)]
                drop = (attention_masks[index], own[0] if places == 2 else None, own[-1])
                x = _LayerFunction.apply(x, (B, T, rows[index] // B), mask, drop, layer, *values)
            return x.view(B, leading, H).float()

    def _embed(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Float32 (B, T, E)."""
        parts = self.parts.embeddings
        norm, place, skipped = parts.norm, parts.positions.weight, parts.skipped_id
        if skipped is None or not ((input_ids == skipped) & (attention_mask != 0)).any():
            first = 0 if skipped is None else skipped + 1
            place = place[
                first : first + input_ids.shape[1]
            ]  # (T, E), for padding as well, which is not read
        else:  # a text holds the name of the padding token
            counted = (input_ids != skipped).long()
            place = parts.positions(counted.cumsum(1) * counted + skipped)  # (B, T, E)
        if parts.token_types is not None:
            types = parts.token_types
            place = place + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        x = parts.words(input_ids) + place
        return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class Dropout:
    """Masks for inverted dropout (Srivastava et al., 2014), drawn for a whole step at once.

    An element is dropped where 16 bits of the generator are below p · 2^16, so that p is met to within 2^-17.
    """

    def __init__(self) -> None:
        self._bits: np.random.BitGenerator | None = None

    def masks(self, shapes: Sequence[tuple[int, ...]], p: float, dtype: torch.dtype) -> list[Tensor | None]:
        """One mask a shape: 0 where dropped, else 1 / (1 - p); None where nothing is dropped."""
        dropped = round(p * 2**16)
        if not dropped:
            return [None] * len(shapes)
        if self._bits is None:  # drawn from torch's generator, which the seed of the run has set
            self._bits = np.random.SFC64(int(torch.randint(2**62, ())))
        sizes = [int(np.prod(shape)) for shape in shapes]
        # See `aten::bernoulli_` in benchmarks/profiles/best.md for what these draws replace.
        bits = torch.from_numpy(self._bits.random_raw(-(-sum(sizes) // 4)).view(np.int16))[: sum(sizes)]
        lowest = dropped - 2**15  # of those kept
        kept = bits.clamp_(lowest - 1, lowest).sub_(lowest - 1)  # 0 or 1
        scale = torch.tensor(1 / (1 - dropped / 2**16), dtype=dtype)
        # In 16 bits the integers become the bits of the mask: a comparison takes twice as long.
        short = scale.element_size() == 2
        kept = kept.mul_(scale.view(torch.int16)).view(dtype) if short else kept * scale
        return [part.view(shape) for part, shape in zip(kept.split(sizes), shapes, strict=True)]


class _Layer:
    """The parameters of one transformer layer, and their values cast to the precision of the products."""

    def __init__(self, layer: Layer, heads: int) -> None:
        # Products: queries; keys and values; attention's output; up; down.
        self.linears = [
            (layer.query,),
            (layer.key, layer.value),
            (layer.attended,),
            (layer.up,),
            (layer.down,),
        ]
        self.norms = [layer.attended_norm, layer.norm]
        self.heads = heads
        self._modules = [each for together in self.linears for each in together] + self.norms
        self._parameters = [parameter for each in self._modules for parameter in each.parameters()]
        self._from: tuple[torch.dtype, int] | None = None

    def values(self) -> list[Tensor]:
        """Weight and bias of each module, in the order of `linears` and `norms`; changed by LoRA or not."""
        return [value for each in self._modules for value in (each.weight, each.bias)]

    def cast(self, values: Sequence[Tensor], dtype: torch.dtype, training: bool) -> None:
        """Brings `weights` and `biases`, one of each a product, up to date with the `values`."""
        current = dtype, sum(parameter._version for parameter in self._parameters)
        changes = training and any(parameter.requires_grad for parameter in self._parameters)
        if current == self._from and not changes:
            return
        if self._from is None or self._from[0] != dtype:
            sizes = [(sum(each.out_features for each in some), some[0].in_features) for some in self.linears]
            self.weights = [torch.empty(size, dtype=dtype) for size in sizes]
            self.biases = [torch.empty(rows, dtype=dtype) for rows, _ in sizes]
        products = sum(len(together) for together in self.linears)
        targets = [
            part
            for whole in (self.weights, self.biases)
            for each, together in zip(whole, self.linears, strict=True)
            for part in each.chunk(len(together))
        ]
        with torch.no_grad():
            torch._foreach_copy_(targets, [*values[: 2 * products : 2], *values[1 : 2 * products : 2]])
        # After a training step the next evaluation casts again, whoever wrote to the parameters, and how.
        self._from = dtype, -1 if changes else current[1]


class _LayerFunction(torch.autograd.Function):
    """One post-norm transformer layer (Vaswani et al., 2017; Devlin et al., 2019) and its gradient.

    Args:
        x: (B·T, H).
        sizes: B, T and Q, the leading tokens of each text that are computed: T, or 1 for [CLS] alone.
        mask: what is added to the scores, (B, 1, T, T), or None.
        drop: dropout masks of the probabilities (B·A, Q, T), attention's output and the layer's (B·Q, H).
        layer: holds the cast weights.
        values: weights and biases of `layer`, for autograd to know of: frozen ones get no gradient.

    Returns:
        (B·Q, H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        sizes: tuple[int, int, int],
        mask: Tensor | None,
        drop: tuple[Tensor | None, ...],
        layer: _Layer,
        *values: Tensor,
    ) -> Tensor:
        (B, T, Q), A, H = sizes, layer.heads, x.shape[1]
        D = H // A
        (wq, wkv, wo, wup, wdown), (bq, bkv, bo, bup, bdown) = layer.weights, layer.biases
        probs_drop, attended_drop, out_drop = drop
        first = x if Q == T else x.view(B, T, H)[:, 0].contiguous()  # (B·Q, H)
        q = _linear(first, wq, bq).mul_(D**-0.5).view(B, Q, A, D).transpose(1, 2)
        q = q.reshape(B * A, Q, D)
        kv = _linear(x, wkv, bkv).view(B, T, 2, A, D).permute(2, 0, 3, 1, 4)
        kv = kv.reshape(2, B * A, T, D)
        k, v = kv
        scores = torch.bmm(q, k.transpose(1, 2))  # (B·A, Q, T)
        if mask is not None:
            scores.view(B, A, Q, T).add_(mask[:, :, :Q])
        # In 32 bits: 16-bit rows of most lengths take twice as long.
        probs = scores.float().softmax(-1)
        kept = probs.to(x.dtype, copy=probs_drop is not None)
        if probs_drop is not None:
            kept.mul_(probs_drop)
        context = torch.bmm(kept, v).view(B, A, Q, D).transpose(1, 2).reshape(B * Q, H)
        attended = _add_dropped(first, _linear(context, wo, bo), attended_drop)
        middle, *attended_stats = _norm(attended, layer.norms[0])
        up = _linear(middle, wup, bup)
        active = gelu(up)
        out = _add_dropped(middle, _linear(active, wdown, bdown), out_drop)
        final, *out_stats = _norm(out, layer.norms[1])
        ctx.sizes, ctx.drop, ctx.layer = sizes, drop, layer
        # What only the gradient of frozen weights would need is not kept.
        need, factors = ctx.needs_input_grad[VALUES:], (x, first, context, middle, active)
        kept_factors = [each if any(need[at]) else None for each, at in zip(factors, FACTORS, strict=True)]
        inputs = (q, kv, probs, kept, attended, up, out)
        ctx.save_for_backward(*kept_factors, *inputs, *attended_stats, *out_stats)
        return final

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, mean1, rstd1, mean2, rstd2 = ctx.saved_tensors
        x, first, context, middle, active, q, kv, probs, kept, attended, up, out = inputs
        (B, T, Q), layer, H = ctx.sizes, ctx.layer, grad.shape[1]
        A, D = layer.heads, H // layer.heads
        need = ctx.needs_input_grad[VALUES:]
        probs_drop, attended_drop, out_drop = ctx.drop
        wq, wkv, wo, wup, wdown = layer.weights
        k, v = kv

        d_out, d_gain2, d_shift2 = _norm_backward(grad, out, (mean2, rstd2), layer.norms[1])
        d_down = d_out if out_drop is None else d_out * out_drop
        d_up = aten.gelu_backward(d_down @ wdown, up)
        d_middle = (d_up @ wup).add_(d_out)
        d_attended, d_gain1, d_shift1 = _norm_backward(d_middle, attended, (mean1, rstd1), layer.norms[0])
        d_o = d_attended if attended_drop is None else d_attended * attended_drop
        d_context = (d_o @ wo).view(B, Q, A, D).transpose(1, 2).reshape(B * A, Q, D)
        d_probs = torch.bmm(d_context, v.transpose(1, 2))
        if probs_drop is not None:
            d_probs.mul_(probs_drop)
        d_scores = aten._softmax_backward_data(d_probs.float(), probs, -1, torch.float32).to(grad.dtype)
        d_q = torch.bmm(d_scores, k).mul_(D**-0.5).view(B, A, Q, D).transpose(1, 2).reshape(B * Q, H)
        d_kv = torch.empty_like(kv)
        torch.bmm(d_scores.transpose(1, 2), q, out=d_kv[0])
        torch.bmm(kept.transpose(1, 2), d_context, out=d_kv[1])
        d_kv = d_kv.view(2, B, A, T, D).permute(1, 3, 0, 2, 4).reshape(B * T, 2 * H)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_first = (d_q @ wq).add_(d_attended)
            d_x = d_kv @ wkv
            d_x.view(B, T, H)[:, :Q].add_(d_first.view(B, Q, H))

        products = [(d_kv, x), (d_q, first), (d_o, context), (d_up, middle), (d_down, active)]
        own = [_of_product(*each, need[at]) for each, at in zip(products, FACTORS, strict=True)]
        own[:2] = own[1::-1]  # queries come first
        gradients = [each for some in own for each in some]
        return d_x, None, None, None, None, *gradients, d_gain1, d_shift1, d_gain2, d_shift2


def _of_product(d_product: Tensor, factor: Tensor | None, need: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of weight and bias of each linear layer that is part of a product; None where frozen.

    Args:
        d_product: gradient of the product, (N, out).
        factor: what the weights were multiplied with, (N, in); None where none of them needs a gradient.
        need: of each weight and bias, whether it does.
    """
    parts = len(need) // 2
    if factor is None:
        return [None] * len(need)
    if parts > 1 and not all(need):
        each = zip(d_product.chunk(parts, 1), (need[:2], need[2:]), strict=True)
        return [gradient for d, own in each for gradient in _of_product(d, factor if any(own) else None, own)]
    weights = (d_product.t() @ factor).float().chunk(parts) if need[0] else [None] * parts
    biases = d_product.sum(0).float().chunk(parts) if need[1] else [None] * parts
    return [each for pair in zip(weights, biases, strict=True) for each in pair]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, out) of x (N, in). A bias that is part of the product, as in `addmm`, costs more than the sum."""
    return (x @ weight.t()).add_(bias)


def _add_dropped(to: Tensor, x: Tensor, drop: Tensor | None) -> Tensor:
    return x.add_(to) if drop is None else torch.addcmul(to, x, drop)


def _norm(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of (N, H), with the means and reciprocal standard deviations that its gradient needs."""
    return aten.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _norm_backward(
    grad: Tensor, x: Tensor, stats: Sequence[Tensor], norm: nn.LayerNorm
) -> tuple[Tensor, ...]:
    return aten.native_layer_norm_backward(
        grad, x, norm.normalized_shape, *stats, norm.weight, norm.bias, [True] * 3
    )


def path_of(network: Any, trainer: Any) -> str:
    """Which code will compute a network in a run, in words."""
    whole = trainer.precision in ("32-true", "16-mixed", "bf16-mixed")  # weights stay in 32 bits
    if trainer.strategy.root_device.type == "cpu" and whole and CpuBert.can_run(network):
        return "BERT on a CPU in fewer operations"
    return "the modules of transformers"
