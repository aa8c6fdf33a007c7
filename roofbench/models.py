# SPDX-License-Identifier: MIT
"""Model architectures and the shapes of their layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class Layer:
    """One (N, K) shape of matrix in a model.

    Args:
        name: layers of one shape are one entry: ``q+o``.
        count: matrices of this shape in the whole model; experts count once per layer.
        experts: E, 0 for a dense layer.
        top_k: experts that a token visits.
        per_expert_input: each visited expert has an input of its own (the down projection).
    """

    name: str
    N: int
    K: int
    count: int
    experts: int = 0
    top_k: int = 0
    per_expert_input: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The layers that it stands for."""
        return tuple(self.name.split("+"))


class Experts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mixture: `count` experts of width `ffn`, `active` per token, `shared` always."""

    count: int
    active: int
    ffn: int
    shared: int = 0


class Mla(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): ranks and head widths."""

    q_lora: int
    kv_lora: int
    nope: int
    rope: int
    v: int


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of models.toml."""

    name: str
    hidden: int
    layers: int
    heads: int
    vocab: int
    params: float
    source: str
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    dense_layers: int = 0
    tied_embeddings: bool = False
    experts: Experts | None = None
    mla: Mla | None = None
    sliding_window: int = 0
    id: str = ""

    @property
    def kv_shape(self) -> tuple[int, int]:
        """(num_heads, head_size) of one layer's cache; of a latent cache without values, (1, rank)."""
        return (1, self.mla.kv_lora + self.mla.rope) if self.mla else (self.kv_heads, self.head_dim)

    def matrices(self) -> list[Layer]:
        """Every weight matrix that a decoded token multiplies with, equal shapes together."""
        found: dict[tuple[int, ...], Layer] = {}
        for layer in (*self._attention(), *self._ffn(), Layer("lm_head", self.vocab, self.hidden, 1)):
            key = (layer.N, layer.K, layer.experts, layer.per_expert_input)
            same = found.get(key)
            found[key] = (
                replace(same, name=f"{same.name}+{layer.name}", count=same.count + layer.count) if same else layer
            )
        return list(found.values())

    def _attention(self) -> list[Layer]:
        n, h = self.layers, self.hidden
        if self.mla:
            a = self.mla
            return [
                Layer("q_a", a.q_lora, h, n),
                Layer("q_b", self.heads * (a.nope + a.rope), a.q_lora, n),
                Layer("kv_a", a.kv_lora + a.rope, h, n),
                Layer("kv_b", self.heads * (a.nope + a.v), a.kv_lora, n),
                Layer("o", h, self.heads * a.v, n),
            ]
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [Layer("q", q, h, n), Layer("k", kv, h, n), Layer("v", kv, h, n), Layer("o", h, q, n)]

    def _ffn(self) -> list[Layer]:
        h, found = self.hidden, []
        dense = self.dense_layers if self.experts else self.layers
        if self.ffn and dense:
            found += _swiglu(h, self.ffn, dense)
        if self.experts:
            e, n = self.experts, self.layers - dense
            found.append(Layer("router", e.count, h, n))
            gate, up, down = (
                replace(m, experts=e.count, top_k=e.active, per_expert_input=m.name == "down")
                for m in _swiglu(h, e.ffn, n)
            )
            found += [gate, up, down]
            if e.shared:
                found += [replace(m, name=f"shared_{m.name}") for m in _swiglu(h, e.ffn * e.shared, n)]
        return found


def _swiglu(hidden: int, ffn: int, count: int) -> list[Layer]:
    return [
        Layer("gate", ffn, hidden, count),
        Layer("up", ffn, hidden, count),
        Layer("down", hidden, ffn, count),
    ]


@cache
def models() -> dict[str, Model]:
    """Every model of models.toml by id."""
    tables = msgspec.toml.decode((Path(__file__).parent / "models.toml").read_bytes(), type=dict[str, Model])
    return {id: msgspec.structs.replace(model, id=id) for id, model in tables.items()}


def model_of(id: str) -> Model:
    """Raises ValueError where there is no such model."""
    try:
        return models()[id]
    except KeyError:
        raise ValueError(f"unknown model {id!r}; known: {' '.join(models())}") from None
