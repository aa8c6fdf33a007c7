# SPDX-License-Identifier: MIT
"""Layers follow from the architectures, and add up to the published sizes."""

import pytest

from roofbench import models
from roofbench.op import SUITES


def shapes(id):
    return {m.name: (m.N, m.K, m.count) for m in models.model_of(id).matrices()}


@pytest.mark.parametrize("id", models.models())
def test_matrices_add_up_to_the_published_parameters(id):
    """To 0.1 %: norms, biases and sinks are no matrices. Two models publish one or two digits only."""
    model = models.model_of(id)
    total = sum(m.N * m.K * m.count * max(m.experts, 1) for m in model.matrices())
    total += 0 if model.tied_embeddings else model.vocab * model.hidden
    assert total == pytest.approx(model.params, rel=0.01 if id == "qwen3-0.6b" else 0.001)


def test_llama_8b_layers():
    assert shapes("llama-3.1-8b") == {
        "q+o": (4096, 4096, 64),
        "k+v": (1024, 4096, 64),
        "gate+up": (14336, 4096, 64),
        "down": (4096, 14336, 32),
        "lm_head": (128256, 4096, 1),
    }


def test_llama_70b_layers():
    assert shapes("llama-3.1-70b")["down"] == (8192, 28672, 80)
    assert shapes("llama-3.1-70b")["k+v"] == (1024, 8192, 160)


def test_layers_of_different_shape_stay_apart():
    assert shapes("gpt-oss-20b")["q"] == (4096, 2880, 24)
    assert shapes("gpt-oss-20b")["o"] == (2880, 4096, 24)


def test_experts_are_one_entry_per_layer():
    gate, down = (m for m in models.model_of("qwen3-30b-a3b").matrices() if m.experts)
    assert (gate.name, gate.N, gate.K, gate.count, gate.experts, gate.top_k) == ("gate+up", 768, 2048, 96, 128, 8)
    assert (down.name, down.N, down.K, down.count) == ("down", 2048, 768, 48)
    assert down.per_expert_input
    assert not gate.per_expert_input


def test_latent_attention_and_shared_experts():
    names = shapes("deepseek-v3")
    assert names["q_b"] == (24576, 1536, 61)
    assert names["kv_b"] == (32768, 512, 61)
    assert names["shared_down"] == (7168, 2048, 58)
    assert models.model_of("deepseek-v3").kv_shape == (1, 576)


def test_suites_name_known_models():
    assert {name for suite in SUITES.values() for name in suite.models} <= set(models.models())
    assert set(SUITES["full"].models) == {
        "llama-3.1-8b",
        "llama-3.1-70b",
        "qwen3-32b",
        "qwen3-30b-a3b",
        "gpt-oss-20b",
    }


def test_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"unknown model 'llama-4'; known: llama-3.1-8b"):
        models.model_of("llama-4")
