import dataclasses
import json
import multiprocessing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import FitResult, Run, RunFolderError, init_state, may_fail, save_checkpoint
from training.reporting.plots import draw_curves
from training.saving.files import to_json
from zoo.atomic_write import atomic_write


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def finish(run, metrics=None, history=()):
    """As after three steps of a `fit` that made a model of seven parameters."""
    model = {"w": jnp.zeros((7,))}
    state = init_state(model, optax.sgd(0.1), key=jax.random.key(0))
    result = FitResult(model, model, state, list(history), None, None, False, 3, {"total": 1.5})
    return run.finish(result, metrics or {"exact_match": 1.0})


def test_numbered_folders_take_the_next_free_number(tmp_path):
    folders = [Run("sort", root=tmp_path).folder for _ in range(2)]
    (tmp_path / "sort" / "7").mkdir()
    (tmp_path / "sort" / "notes").mkdir()
    folders.append(Run("sort", root=tmp_path).folder)
    folders.append(Run("copy", root=tmp_path).folder)
    assert [f.relative_to(tmp_path).as_posix() for f in folders] == ["sort/1", "sort/2", "sort/8", "copy/1"]


def _many_runs(root, barrier, folders):
    barrier.wait()
    folders.put([str(Run("sort", root=Path(root)).folder) for _ in range(20)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork to start at once")
def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, folders = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_many_runs, args=(str(tmp_path), barrier, folders)) for _ in range(2)]
    for worker in workers:
        worker.start()
    made = [folder for _ in workers for folder in folders.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(set(made)) == 40
    assert sorted(int(Path(folder).name) for folder in made) == list(range(1, 41))


def test_out_is_that_very_folder(tmp_path):
    run = Run("sort", tmp_path / "a" / "b")
    assert run.folder == tmp_path / "a" / "b"
    assert run.path("model.safetensors") == tmp_path / "a" / "b" / "model.safetensors"
    assert Run("sort", (tmp_path / "empty")).folder.is_dir()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "years of work"},
        {"metrics.jsonl": "{}"},  # the same name, but not made by us
        {"run.json": '{"example": "translate", "format": 1}', "metrics.jsonl": "{}"},
        {"run.json": "not json"},
        {"run.json": "[]"},
        {"run.json": "{}"},
    ],
)
def test_folder_of_somebody_else_is_refused_and_left_alone(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match="out must be new, empty or of an earlier run of sort"):
        Run("sort", tmp_path)
    assert contents(tmp_path) == before


def test_file_as_out_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="out must be a folder"):
        Run("sort", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def a_run(out):
    """One that wrote all that runs write, beside files of its user's."""
    run = Run("sort", out)
    run.log(1, {})
    run.timing({})
    run.sample(2, "old")
    run.path("model.safetensors").write_bytes(b"weights")
    save_checkpoint(run.checkpoints, 1, {"w": jnp.zeros(3)}, {})
    finish(run, history=[{"step": 1, "loss": 2.0}])
    (out / "notes.txt").write_text("keep me")
    (out / "checkpoints" / "mine").write_text("keep me, too")
    run.path("notes.txt")  # is there already, so it is not the run's
    return run


@pytest.mark.parametrize("left", ["all", "model.safetensors", "metrics.jsonl", "checkpoints/step_00000001"])
def test_a_folder_with_a_run_in_it_is_refused_and_left_alone(tmp_path, left):
    a_run(tmp_path)
    for path in tmp_path.iterdir():
        if left != "all" and path.is_file() and path.name not in ("run.json", left):
            path.unlink()
    before = contents(tmp_path)
    with pytest.raises(RunFolderError, match=r"has a run in it: continue it with --resume .*, replace it with --o"):
        Run("sort", tmp_path)
    assert contents(tmp_path) == before


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    a_run(tmp_path)
    with pytest.raises(RunFolderError, match=r"out must be new, empty or of an earlier run of copy"):
        Run("copy", tmp_path, overwrite=True)
    before = contents(tmp_path)
    second = Run("sort", tmp_path, overwrite=True)
    assert contents(tmp_path) == before | {"run.lock": (tmp_path / "run.lock").read_bytes()}  # nothing is written yet
    second.path("metrics.jsonl")
    assert set(contents(tmp_path)) == {"run.json", "run.lock", "notes.txt", "checkpoints/mine"}
    assert json.loads((tmp_path / "run.json").read_text())["files"] == []
    second.log(9, {})
    assert second.path("metrics.jsonl").read_text() == '{"step": 9}\n'


def test_a_run_that_wrote_nothing_is_in_nobodys_way(tmp_path):
    run = Run("sort", tmp_path)
    del run
    Run("sort", tmp_path).log(1, {})


def test_a_marker_never_names_files_of_other_folders_as_its_own(tmp_path):
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    marker = {"example": "sort", "format": 1, "files": ["../precious", str(tmp_path / "precious"), 3, "old.png"]}
    (out / "run.json").write_text(json.dumps(marker))
    (out / "old.png").write_text("old")
    Run("sort", out, overwrite=True).log(1, {})
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (out / "old.png").exists()


def test_folders_may_be_given_as_texts(tmp_path):
    assert Run("sort", str(tmp_path / "a")).folder == tmp_path / "a"
    assert Run("sort", root=str(tmp_path)).folder == tmp_path / "sort" / "1"
    assert Run("sort", resume=str(tmp_path / "a")).folder == tmp_path / "a"


def test_what_fails_after_the_model_is_saved_is_a_line(tmp_path, monkeypatch, capsys):
    """A picture is not worth a run: the summary is written all the same."""

    def broken(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr("training.reporting.run.draw_curves", broken)
    run = Run("sort", tmp_path)
    finish(run, history=[{"step": 1, "loss": 2.0}])
    assert run.path("summary.json").exists()
    assert capsys.readouterr().err == "warning: curves.png could not be drawn: No module named 'matplotlib'\n"
    with pytest.raises(KeyboardInterrupt), may_fail("never mind"):
        raise KeyboardInterrupt


def test_lines_are_there_at_once(tmp_path):
    run = Run("sort", tmp_path)
    run.log(1, {"loss": float("nan"), "members": [1.0, float("inf")]})
    run.timing({"step": 1, "seconds": 0.5})
    run.sample(1, "ünïcode\n")
    assert run.path("metrics.jsonl").read_text() == '{"step": 1, "loss": null, "members": [1.0, null]}\n'
    assert run.path("timing.jsonl").read_text() == '{"step": 1, "seconds": 0.5}\n'
    assert run.path("samples.txt").read_text(encoding="utf-8") == "--- step 1\nünïcode\n"


@dataclasses.dataclass
class Arguments:
    task: str = "sort"
    out: Path | None = Path("x")


def test_summary(tmp_path):
    run = Run("sort", tmp_path, arguments=Arguments())
    metrics = {"exact_match": np.float32(0.5), "losses": np.array([1.0, np.nan])}
    returned = finish(run, metrics, [{"step": 1, "loss": 2.0}])
    summary = json.loads(run.path("summary.json").read_text())
    assert summary["seconds"] == returned["seconds"]
    assert set(summary) == {"metrics", "steps", "seconds", "parameters", "arguments", "device", "versions"}
    assert summary["metrics"] == {"exact_match": 0.5, "losses": [1.0, None]}
    assert (summary["steps"], summary["seconds"]["fit"], summary["parameters"]) == (3, 1.5, 7)
    assert summary["seconds"]["total"] > 0
    assert summary["arguments"] == {"task": "sort", "out": "x"}
    assert summary["device"].startswith(("cpu", "gpu", "tpu"))
    assert {"python", "jax", "equinox", "optax", "numpy"} <= set(summary["versions"])
    assert {p.name for p in tmp_path.iterdir()} == {"run.json", "summary.json", "curves.png"}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, call):
    path = tmp_path / "summary.json"
    atomic_write(path, b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if call == "open" else f"os.{call}", full)
        with pytest.raises(OSError, match="No space left on device"):
            atomic_write(path, b"new")
    assert contents(tmp_path) == {"summary.json": b"old"}
    atomic_write(path, b"new")
    assert contents(tmp_path) == {"summary.json": b"new"}


def test_json_of_what_runs_hold():
    value = {"a": (1, 2.5), 3: None, "b": np.int64(4), "c": np.arange(2), "d": Path("x/y"), "e": True, "f": -np.inf}
    assert json.loads(to_json(value)) == {
        "a": [1, 2.5],
        "3": None,
        "b": 4,
        "c": [0, 1],
        "d": "x/y",
        "e": True,
        "f": None,
    }


@pytest.mark.parametrize(
    "history",
    [
        [{"step": 1, "loss": 2.0}],
        [{"step": i, "loss": 5.0 / i, "accuracy": i / 500} for i in range(1, 500)]
        + [{"step": i, "validation_loss": 6.0 / i, "validation_accuracy": 0.5} for i in (100, 200)],
        [{"step": i, "loss": [1.0, None, 3.0], "accuracy": [0.5, None, 0.7]} for i in range(1, 9)]
        + [{"step": 8, "validation_loss": [1.0, None, 2.0], "validation_accuracy": [0.1, None, 0.2]}],
        [{"step": 1, "loss": None, "accuracy": None}],
    ],
    ids=["one step", "usual", "ensemble with a lost member", "nothing finite"],
)
def test_curves_of_any_history(tmp_path, history):
    draw_curves(history, tmp_path / "curves.png", title="sort")
    image = (tmp_path / "curves.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 5000


def test_curves_show_the_history(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *args, **kw: drawn.append((args, kw)) or plot(self, *args, **kw))
    history = [{"step": i, "loss": float(i)} for i in range(1, 5)] + [{"step": 4, "validation_loss": 9.0}]
    draw_curves(history, tmp_path / "curves.png")
    lines = {kw["label"]: [np.asarray(a).tolist() for a in args[:2]] for args, kw in drawn if "label" in kw}
    assert lines["training"] == [[1, 2, 3, 4], [1, 2, 3, 4]]
    with pytest.raises(ValueError, match="history is empty"):
        draw_curves([], tmp_path / "none.png")
