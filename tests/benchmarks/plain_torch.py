"""The language model of the benchmarks in plain PyTorch, in nanoGPT's shape, with weights copied from ours."""

import math
import os
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from zoo import TransformerLM

torch.set_num_threads(os.cpu_count() or 1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, eps=1e-5, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def heads_of(self, x: Any) -> Any:
        return (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))

    def forward(self, x: Any) -> Any:
        queries, keys, values = self.heads_of(self.norm_1(x))
        heads = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))

    def step(self, x: Any, keys: Any, values: Any, position: int) -> Any:
        """One token of one row, (1, 1, width); the caches are filled in place."""
        query, key, value = self.heads_of(self.norm_1(x))
        keys[:, :, position : position + 1], values[:, :, position : position + 1] = key, value
        seen = slice(0, position + 1)
        heads = F.scaled_dot_product_attention(query, keys[:, :, seen], values[:, :, seen])
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab: int, width: int, layers: int, heads: int, context: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-5, bias=False)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.inference_mode()
    def generate(self, prompt: list[int], new: int, capacity: int) -> list[int]:
        """Greedy, one token at a time, with a cache of keys and values."""
        first: Any = self.blocks[0]
        shape = (2, len(self.blocks), 1, first.heads, capacity, self.norm.weight.numel() // first.heads)
        keys, values = torch.zeros(shape)
        tokens = list(prompt)
        for position in range(len(prompt) + new - 1):
            x = (self.tokens.weight[tokens[position]] + self.positions.weight[position])[None, None]
            for layer, block in enumerate(self.blocks):
                x = block.step(x, keys[layer], values[layer], position)  # pyright: ignore
            if position >= len(prompt) - 1:
                tokens.append(int(self.head(self.norm(x))[0, 0].argmax()))
        return tokens[len(prompt) :]


def copy_of(lm: TransformerLM) -> GPT:
    """The same model with the same weights. Ours has to be in GPT-2's shape, without biases."""
    sizes = lm.config
    gpt = GPT(sizes.vocab_size, sizes.embed_size, sizes.num_layers, sizes.num_heads, sizes.max_length)
    assert lm.position_embedding is not None
    with torch.no_grad():

        def put(parameter: Any, *arrays: Any) -> None:
            parameter.copy_(torch.from_numpy(np.concatenate([np.asarray(array) for array in arrays])))

        put(gpt.tokens.weight, lm.embedding.weight)
        put(gpt.positions.weight, lm.position_embedding.weight)  # pyright: ignore
        put(gpt.norm.weight, lm.final_norm.weight)
        for theirs, ours in zip(gpt.blocks, lm.stack.unstack(), strict=True):
            attention, block = ours.attention, theirs
            put(block.norm_1.weight, ours.attention_norm.weight)
            put(block.norm_2.weight, ours.mlp_norm.weight)
            put(block.qkv.weight, attention.query.weight, attention.key.weight, attention.value.weight)
            put(block.out.weight, attention.output.weight)
            put(block.up.weight, ours.mlp.up.weight)
            put(block.down.weight, ours.mlp.down.weight)
    return gpt


def make_step(gpt: GPT, inputs: np.ndarray, targets: np.ndarray, **optimiser: float) -> Any:
    """A function that makes one step of AdamW on a batch, clipped to a norm of 1, and returns the loss before it."""
    decay = optimiser.pop("weight_decay")
    matrices = [p for p in gpt.parameters() if p.ndim > 1]
    vectors = [p for p in gpt.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (optimiser["b1"], optimiser["b2"])
    adamw = torch.optim.AdamW(groups, lr=optimiser["learning_rate"], betas=betas)
    x, y = torch.from_numpy(inputs).long(), torch.from_numpy(targets).long()

    def step() -> float:
        loss = F.cross_entropy(gpt(x).flatten(0, 1), y.flatten())
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        adamw.step()
        assert not math.isnan(loss.item())
        return loss.item()

    return step
