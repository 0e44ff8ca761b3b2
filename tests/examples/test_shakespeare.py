"""Training on a text file and writing with what came out of it."""

import json

import pytest

import zoo
from examples.shakespeare import Arguments, main
from examples.shakespeare_presets import NANOGPT
from zoo import TransformerLM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps on a text of our own."""
    folder = tmp_path_factory.mktemp("shakespeare")
    text = folder / "text.txt"
    text.write_text("In jenem Städtchen läutete es; niemand hörte zu.\n" * 100, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:  # other examples' tests look at theirs
        patch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
        main(Arguments(text=str(text), smoke=True, steps=3, out=folder / "run"))
    return folder / "run"


def test_any_text_file_trains(run):
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["metrics"]["validation_loss"] < 4
    assert zoo.read_extra(run / "model.safetensors")["tokenizer"]
    assert (run / "samples.txt").stat().st_size > 0


@pytest.mark.parametrize("preset", ["best", "nanogpt"])
def test_a_model_of_another_context_sees_so_many_tokens(tmp_path, preset):
    text, out = str(tmp_path / "text.txt"), tmp_path / "run"
    (tmp_path / "text.txt").write_text("In jenem Städtchen läutete es; niemand hörte zu.\n" * 100, encoding="utf-8")
    main(Arguments(text=text, smoke=True, steps=1, preset=preset, context=20, out=out))
    assert zoo.load(out / "model.safetensors").max_length == 20

    with pytest.raises(ValueError, match="--context must be at most 20 with this --init-from; got 21"):
        main(Arguments(text=text, smoke=True, init_from=out, context=21, out=tmp_path / "longer"))
    with pytest.raises(ValueError, match="--context must be at least 1; got 0"):
        Arguments(context=0)
    assert not (tmp_path / "longer").exists()


def test_writes_as_much_as_asked_for_beyond_the_context(run, capsys):
    model = run / "model.safetensors"
    written = main(Arguments(write="Städtchen", checkpoint=model, max_new_tokens=200))["text"]
    assert written.startswith("Städtchen")
    assert len(written) == len("Städtchen") + 200
    assert capsys.readouterr().out == written + "\n"
    again = main(Arguments(write="Städtchen", checkpoint=model, max_new_tokens=200))["text"]
    assert again == written
    other = main(Arguments(write="Städtchen", checkpoint=model, max_new_tokens=200, seed=1))["text"]
    assert other != written


def test_wrong_input(run, tmp_path, monkeypatch):
    model = run / "model.safetensors"
    with pytest.raises(ValueError, match="'Q'"):
        main(Arguments(write="Q", checkpoint=model))
    with pytest.raises(ValueError, match="temperature"):
        main(Arguments(write="In", checkpoint=model, temperature=-1.0))
    with pytest.raises(ValueError, match="at least one token"):
        main(Arguments(write="", checkpoint=model))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="train a model first"):
        main(Arguments(write="In"))


def test_the_nanogpt_preset_is_a_model(fill):
    lm = fill(lambda key: TransformerLM(NANOGPT, key=key))
    # nanoGPT reports 0.80M parameters without the positions for this configuration with a vocabulary of 65.
    assert zoo.count_parameters(lm) - 64 * 128 == pytest.approx(0.80e6, rel=0.01)
