"""Training for any `equinox.Module`: losses, one donated step, `fit`, run folders and what examples share.

The names below are loaded when they are first used, so that nobody waits for JAX, or for a plotting or command-line
library, before it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.chunked_loss import SequenceToSequenceLoss as SequenceToSequenceLoss
    from training.chunked_loss import chunked_softmax_cross_entropy as chunked_softmax_cross_entropy
    from training.devices.execution import Execution as Execution
    from training.devices.precision import Precision as Precision
    from training.devices.precision import in_precision as in_precision
    from training.devices.processes import initialize_distributed as initialize_distributed
    from training.devices.sharding import Sharding as Sharding
    from training.errors import CheckpointError as CheckpointError
    from training.errors import NonFiniteError as NonFiniteError
    from training.errors import ProcessLostError as ProcessLostError
    from training.errors import RunFolderError as RunFolderError
    from training.evaluation import Evaluation as Evaluation
    from training.evaluation import evaluate as evaluate
    from training.launch.allocator import keep_freed_memory as keep_freed_memory
    from training.launch.options import Options as Options
    from training.launch.options import cli as cli
    from training.launch.stop_signals import handle_sigterm as handle_sigterm
    from training.loop import fit as fit
    from training.losses import Loss as Loss
    from training.losses import Sums as Sums
    from training.losses import classification_loss as classification_loss
    from training.losses import next_token_loss as next_token_loss
    from training.losses import softmax_cross_entropy as softmax_cross_entropy
    from training.metrics import accuracy as accuracy
    from training.metrics import bits as bits
    from training.metrics import exact_match as exact_match
    from training.metrics import perplexity as perplexity
    from training.optimisers import adamw as adamw
    from training.optimisers import decay_matrices as decay_matrices
    from training.optimisers import learning_rate_schedule as learning_rate_schedule
    from training.reporting.run import Run as Run
    from training.reporting.run import may_fail as may_fail
    from training.reporting.run_folder import newest_file as newest_file
    from training.saving.checkpoint import Checkpoint as Checkpoint
    from training.saving.checkpoint import read_checkpoint as read_checkpoint
    from training.saving.checkpoint import save_checkpoint as save_checkpoint
    from training.saving.checkpointer import Checkpoints as Checkpoints
    from training.saving.fingerprint import data_fingerprint as data_fingerprint
    from training.state import Best as Best
    from training.state import FitResult as FitResult
    from training.state import TrainState as TrainState
    from training.state import init_state as init_state
    from training.state import member as member
    from training.step import StepReport as StepReport
    from training.step import make_step as make_step
    from training.step import train_step as train_step
    from training.streams import stream_carry as stream_carry
    from training.streams import stream_loss as stream_loss

_MODULES = {
    "chunked_loss": ["SequenceToSequenceLoss", "chunked_softmax_cross_entropy"],
    "devices.execution": ["Execution"],
    "devices.precision": ["Precision", "in_precision"],
    "devices.processes": ["initialize_distributed"],
    "devices.sharding": ["Sharding"],
    "errors": ["CheckpointError", "NonFiniteError", "ProcessLostError", "RunFolderError"],
    "evaluation": ["Evaluation", "evaluate"],
    "launch.allocator": ["keep_freed_memory"],
    "launch.options": ["Options", "cli"],
    "loop": ["fit"],
    "losses": ["Loss", "Sums", "classification_loss", "next_token_loss", "softmax_cross_entropy"],
    "metrics": ["accuracy", "bits", "exact_match", "perplexity"],
    "optimisers": ["adamw", "decay_matrices", "learning_rate_schedule"],
    "reporting.run": ["Run", "may_fail"],
    "reporting.run_folder": ["newest_file"],
    "saving.checkpoint": ["Checkpoint", "read_checkpoint", "save_checkpoint"],
    "saving.checkpointer": ["Checkpoints"],
    "saving.fingerprint": ["data_fingerprint"],
    "launch.stop_signals": ["handle_sigterm"],
    "state": ["Best", "FitResult", "TrainState", "init_state", "member"],
    "step": ["StepReport", "make_step", "train_step"],
    "streams": ["stream_carry", "stream_loss"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"training.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
