"""Training for any `equinox.Module`: losses, one donated step, `fit`, run folders and what examples share.

The names below are loaded when they are first used, so that nobody waits for JAX, or for a plotting or command-line
library, before it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.allocator import keep_freed_memory as keep_freed_memory
    from training.checkpoint import Checkpoint as Checkpoint
    from training.checkpoint import read_checkpoint as read_checkpoint
    from training.checkpoint import save_checkpoint as save_checkpoint
    from training.chunked_loss import SequenceToSequenceLoss as SequenceToSequenceLoss
    from training.chunked_loss import chunked_softmax_cross_entropy as chunked_softmax_cross_entropy
    from training.evaluation import evaluate as evaluate
    from training.loop import FitResult as FitResult
    from training.loop import fit as fit
    from training.losses import Loss as Loss
    from training.losses import Sums as Sums
    from training.losses import classification_loss as classification_loss
    from training.losses import next_token_loss as next_token_loss
    from training.losses import softmax_cross_entropy as softmax_cross_entropy
    from training.losses import stream_loss as stream_loss
    from training.metrics import accuracy as accuracy
    from training.metrics import bits as bits
    from training.metrics import exact_match as exact_match
    from training.metrics import perplexity as perplexity
    from training.non_finite import NonFiniteError as NonFiniteError
    from training.optimisers import adamw as adamw
    from training.optimisers import decay_matrices as decay_matrices
    from training.optimisers import learning_rate_schedule as learning_rate_schedule
    from training.options import Options as Options
    from training.options import Precision as Precision
    from training.options import cli as cli
    from training.precision import in_precision as in_precision
    from training.processes import ProcessLostError as ProcessLostError
    from training.processes import join as join
    from training.resume import Checkpoints as Checkpoints
    from training.run import Run as Run
    from training.run import RunFolderError as RunFolderError
    from training.run import newest_file as newest_file
    from training.sharding import Sharding as Sharding
    from training.state import Best as Best
    from training.state import TrainState as TrainState
    from training.state import init_state as init_state
    from training.state import member as member
    from training.step import StepReport as StepReport
    from training.step import make_step as make_step
    from training.step import train_step as train_step
    from training.stop_signals import handle_sigterm as handle_sigterm
    from training.whole_folder import CheckpointError as CheckpointError

_MODULES = {
    "allocator": ["keep_freed_memory"],
    "chunked_loss": ["SequenceToSequenceLoss", "chunked_softmax_cross_entropy"],
    "checkpoint": ["Checkpoint", "read_checkpoint", "save_checkpoint"],
    "evaluation": ["evaluate"],
    "loop": ["FitResult", "fit"],
    "losses": ["Loss", "Sums", "classification_loss", "next_token_loss", "softmax_cross_entropy", "stream_loss"],
    "metrics": ["accuracy", "bits", "exact_match", "perplexity"],
    "precision": ["in_precision"],
    "processes": ["ProcessLostError", "join"],
    "non_finite": ["NonFiniteError"],
    "optimisers": ["adamw", "decay_matrices", "learning_rate_schedule"],
    "options": ["Options", "Precision", "cli"],
    "resume": ["Checkpoints"],
    "run": ["Run", "RunFolderError", "newest_file"],
    "sharding": ["Sharding"],
    "state": ["Best", "TrainState", "init_state", "member"],
    "step": ["StepReport", "make_step", "train_step"],
    "stop_signals": ["handle_sigterm"],
    "whole_folder": ["CheckpointError"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"training.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
