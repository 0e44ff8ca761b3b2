"""What would fit: memory on each device and operations of a training step, for language models of all sizes.

python examples/plan.py
python examples/plan.py --precision bfloat16 --rows 4 --largest 1B

Nothing is trained and no weight is made: each step is compiled for shapes alone, which takes seconds.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal

import jax
import numpy as np

from training import Precision, adamw, cli, next_token_loss
from training.launch.options import check_numbers
from training.plan import Plan, plan
from zoo import TransformerLM, TransformerLMConfig


@dataclasses.dataclass(frozen=True)
class Size:
    """A language model of GPT-2's kind, and how many rows a device has of a batch, None for as many as asked for."""

    vocab_size: int
    embed_size: int
    num_layers: int
    num_heads: int
    context: int
    rows: int | None = None

    def config(self, *, remat: bool) -> TransformerLMConfig:
        """nanoGPT's parts: learned positions, gelu, no biases, tied heads."""
        return TransformerLMConfig.gpt2(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, max_length=self.context, activation="gelu", use_bias=False, dropout_p=0.0,
            remat=remat,
        )  # fmt: skip


Name = Literal["nanogpt-cpu", "nanogpt-gpu", "1M", "10M", "124M", "1B", "10B", "100B"]
SIZES: dict[Name, Size] = {
    "nanogpt-cpu": Size(65, 128, 4, 4, 64, rows=12),
    "nanogpt-gpu": Size(65, 384, 6, 6, 256, rows=64),
    "1M": Size(1_024, 128, 4, 4, 256),
    "10M": Size(8_192, 256, 10, 4, 512),
    "124M": Size(50_257, 768, 12, 12, 1024),
    "1B": Size(50_257, 2048, 18, 16, 2048),
    "10B": Size(50_257, 4096, 48, 32, 2048),
    "100B": Size(50_257, 8192, 124, 64, 2048),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """How to train."""

    largest: Name = "100B"
    """The last model of the table."""
    devices: tuple[int, ...] = (1, 8, 64, 512, 4096)
    """Numbers of devices, over which weights and optimiser state are split, as by --fsdp."""
    rows: int = 8
    """Rows of a batch on each device; nanoGPT's models have as many as in nanoGPT."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches per step."""
    precision: Precision = "float32"
    """What the models compute in."""
    debug: bool = False
    """Show where an error came from."""

    def __post_init__(self):
        check_numbers(self, 1, math.inf, "rows", "devices", "accumulate")
        if not self.devices:
            raise ValueError("--devices must have at least one number")
        for size in itertools.islice(SIZES.values(), list(SIZES).index(self.largest) + 1):
            rows = size.rows or self.rows
            if rows % self.accumulate:
                raise ValueError(f"--accumulate must divide the {rows} rows of a batch; got {self.accumulate}")


def main(arguments: Arguments) -> dict[str, dict[str, Any]]:
    """Print what training steps need: operations a token and bytes on each device, from shapes alone."""
    print(
        f"AdamW in {arguments.precision}, compiled for {jax.default_backend()}. Bytes on each device, which keeps "
        "activations / computes them\nagain in the backward pass (remat=True)\n"
    )
    print(f"{'':>12}{'parameters':>16}{'rows':>12}{'operations a token':>20}", end="")
    print("".join(f"{f'{n:,} device' + 's' * (n > 1):>20}" for n in arguments.devices))
    table: dict[str, dict[str, Any]] = {}
    marked = False
    for name, size in SIZES.items():
        kept, again = (plan_of(size, arguments, remat) for remat in (False, True))
        rows = size.rows or arguments.rows
        cells = [[one.on(n, fsdp=True).total for one in (kept, again)] for n in arguments.devices]
        table[name] = {"parameters": kept.parameters, "flops": kept.flops, "bytes": cells}
        marked = kept.is_upper_estimate
        print(f"{name:>12}{kept.parameters:>16,}{f'{rows} x {size.context}':>12}", end="")
        print(f"{kept.flops / (rows * size.context):>20.3g}", end="")
        print("".join(f"{'<' * marked + ' / '.join(map(as_bytes, cell)):>20}" for cell in cells), flush=True)
        if name == arguments.largest:
            break
    if marked:
        print(
            "\n<: an upper estimate. XLA asks for more in bfloat16 than in float32 on a CPU, an accelerator for less."
        )
    return table


def plan_of(size: Size, arguments: Arguments, remat: bool) -> Plan:
    """The plan of one model for the rows of one device."""
    ids = np.zeros((size.rows or arguments.rows, size.context), np.int32)
    return plan(
        functools.partial(TransformerLM, size.config(remat=remat)),
        next_token_loss,
        adamw(1e-3, total_steps=1000, clip_norm=1.0),
        {"inputs": ids, "targets": ids, "weights": np.ones(ids.shape, np.float32)},
        accumulate=arguments.accumulate,
        precision=arguments.precision,
    )


def as_bytes(count: float) -> str:
    """With three digits and a unit."""
    unit = min(int(math.log10(max(count, 1)) // 3), 4)
    return f"{count / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


if __name__ == "__main__":
    cli(main)
