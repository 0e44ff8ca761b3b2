"""Text in, text out: what pipelines give is what the models give, whatever the batches, and a file keeps it all."""

import itertools
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import (
    AbstractDecoder,
    EncoderDecoder,
    EncoderDecoderConfig,
    TextConvNet,
    TextConvNetConfig,
    TextEncoder,
    TextEncoderConfig,
    TransformerClassifier,
    TransformerClassifierConfig,
    TransformerLM,
    TransformerLMConfig,
    beam_search,
    generate,
)
from zoo.text import (
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Classifier,
    Embedder,
    HuggingFaceTokenizer,
    Translator,
    WordTokenizer,
    Writer,
    fill_mask,
    load,
)
from zoo.text.batches import encoded, in_batches, width_of

ALPHABET = "\nabcdefg :"
BYTES = BytePairTokenizer(r"\s?\S+|\s+", [bytes([i]) for i in range(256)])


def built(cls: Any, config: Any, seed: int = 0) -> Any:
    return eqx.filter_jit(cls)(config, key=jax.random.key(seed))


@pytest.fixture(scope="module")
def writer(fill):
    config = TransformerLMConfig(
        vocab_size=len(ALPHABET), embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=32
    )
    lm = fill(lambda key: TransformerLM(config, key=key))
    return Writer(model=lm, tokenizer=CharacterTokenizer(ALPHABET), max_new_tokens=16)


def test_a_writer_writes_what_generate_does(writer):
    prompt = "abc: "
    ids = generate(writer.model.decoder(), writer.tokenizer.encode(prompt), max_new_tokens=16).tokens
    text = writer.tokenizer.decode(np.asarray(ids))
    assert writer(prompt) == text == "".join(writer.stream(prompt))
    assert writer(prompt, max_new_tokens=4) == text[:4]
    hot: Any = {"temperature": 1.0, "top_p": 0.9}
    assert writer(prompt, **hot) == writer(prompt, **hot)
    texts = {writer(prompt, **hot, key=jax.random.key(seed)) for seed in range(4)}
    assert len(texts) > 1


def test_a_batch_has_each_prompt_in_its_place(writer):
    prompts = ["abc: ", "g", "aaaaaaaaaaaaaaaaaaaa", "ab", "ba:"]
    alone = [writer(prompt, max_new_tokens=10) for prompt in prompts]
    assert writer.batch(prompts, max_new_tokens=10) == alone
    two = Writer(model=writer.model, tokenizer=writer.tokenizer, batch_size=2)
    assert two.batch(prompts, max_new_tokens=10) == alone
    assert writer.batch([], max_new_tokens=3) == []
    done: list[int] = []
    assert two.batch(prompts, max_new_tokens=10, progress=done.append) == alone
    assert done == [2, 2, 1]


def test_a_text_goes_on_where_the_window_is_full(writer):
    """The window is then the second half of what there is, up to `max_length`, and so on."""
    tokenizer, logits = writer.tokenizer, eqx.filter_jit(writer.model)
    ids = tokenizer.encode("ab").tolist()
    while len(ids) < 32:  # until there the whole text is in the window
        padded = jnp.asarray(ids + [0] * (32 - len(ids)))  # what follows a token changes nothing
        ids.append(int(np.argmax(logits(padded)[len(ids) - 1])))
    assert writer("ab", max_new_tokens=30) == tokenizer.decode(ids[2:32])
    window = writer("ab", max_new_tokens=50)
    assert window[:30] == tokenizer.decode(ids[2:32])
    assert window[30:46] == writer(("ab" + window)[16:32], max_new_tokens=16)
    assert window[46:] == writer(("ab" + window)[32:48], max_new_tokens=4)
    assert writer.batch(["ab", "c"], max_new_tokens=50)[0] == window


class Scripted(AbstractDecoder[Any]):
    """Writes what it was told after a first token, whatever that was: its state is how many tokens there were."""

    vocab_size: int
    max_length: int | None
    script: jax.Array

    def init_state(self, capacity):
        return jnp.array(0)

    def prefill(self, tokens, state, *, length=None):
        count = state + (tokens.shape[0] if length is None else length)
        return 9.0 * jax.nn.one_hot(self.script[count - 1], self.vocab_size), count

    def step(self, token, state):
        return self.prefill(jnp.asarray(token)[None], state)


class Script(eqx.Module):
    """A model whose decoder that is."""

    script: jax.Array
    vocab_size: int

    def decoder(self):
        return Scripted(vocab_size=self.vocab_size, max_length=None, script=self.script)


few = st.text("RO:\né", max_size=24)


@settings(max_examples=60, deadline=None)
@given(few, st.lists(st.text("RO:\né", min_size=1, max_size=4), max_size=3))
def test_a_stream_stops_on_strings_and_yields_no_part_of_them(text, stop):
    """Bytes: strings begin and end within tokens and across them, and characters too."""
    content = text.encode()
    script = jnp.asarray(np.frombuffer(content.ljust(64, b"."), np.uint8).astype(np.int32))
    writer = Writer(model=Script(script, 256), tokenizer=ByteTokenizer(), max_new_tokens=len(content))
    pieces = list(writer.stream("x", stop=stop))
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert "".join(pieces) == (text[: min(ends)[1]] if ends else text)
    assert all(pieces)


def test_stop_ids_end_a_text_and_do_not_show():
    script = jnp.asarray([104, 105, BYTES.stop_id, 104, 104, 104, 104, 104])
    writer = Writer(model=Script(script, BYTES.vocab_size), tokenizer=BYTES, max_new_tokens=6)
    assert writer.stop_ids == [256]
    assert writer("x") == "hi"
    assert writer.batch(["x", "y"]) == ["hi", "hi"]


def test_what_a_tokenizer_cannot_decode_is_not_written():
    """As of a model whose vocabulary was padded."""
    script = jnp.asarray([7, 1, 3, 1, 7, 0])
    writer = Writer(model=Script(script, 8), tokenizer=CharacterTokenizer("abc"), max_new_tokens=4)
    assert writer.forbidden_ids == (3, 4, 5, 6, 7)
    assert writer("a") == "abab"
    assert writer.batch(["a", "c"]) == ["abab"] * 2
    padded = HuggingFaceTokenizer(trained.definition("llama"))  # which leaves them out
    assert Writer(model=Script(script, padded.vocab_size + 5), tokenizer=padded).forbidden_ids == ()


def test_special_ids_that_the_model_lacks_are_not_used():
    writer = Writer(model=Script(jnp.asarray([104] * 8), 256), tokenizer=BYTES, max_new_tokens=2)
    assert writer.stop_ids == []
    assert writer("x") == "hh"
    with pytest.raises(ValueError, match="prompt must have at least one token"):
        writer("")


def test_what_a_writer_does_not_take_is_named(writer):
    for wrong, message in (
        ({"prompt": ""}, "prompt must have at least one token"),
        ({"prompt": "a", "stop": [""]}, "stop must be"),
        ({"prompt": "a", "temperature": -1.0}, "temperature"),
        ({"prompt": "a", "max_new_tokens": -1}, "max_new_tokens"),
        ({"prompt": "A"}, "not one of the 10 characters"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.stream(**wrong)  # at the call, before anything is asked for
    with pytest.raises(ValueError, match="no chat template"):
        writer.chat([{"role": "user", "content": "hello"}])


@pytest.mark.usefixtures("as_users")
def test_a_seed_is_no_key_and_one_text_no_batch(writer):
    for write in (writer.stream, lambda prompt, key: writer.batch([prompt], key=key)):
        with pytest.raises(TypeError, match="key must be a key, not a seed"):
            write("a", key=0)
    with pytest.raises(ValueError, match="max_new_tokens"):
        writer.batch([], max_new_tokens=-1)


def test_a_conversation_is_continued_after_its_template(fill):
    definition = trained.definition("llama")
    tokenizer = HuggingFaceTokenizer(
        definition, start_id=1, stop_id=2, chat_template="{{ bos_token }}{{ messages[0].content }}."
    )
    config = TransformerLMConfig(vocab_size=420, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=32)
    writer = Writer(model=fill(lambda key: TransformerLM(config, key=key)), tokenizer=tokenizer, max_new_tokens=5)
    prompt = tokenizer.encode("<s>the dog.", add_special=False).tolist()
    assert prompt[0] == 1
    assert 1 not in prompt[1:]
    made = generate(writer.decoder, prompt, max_new_tokens=5, stop_ids=[2]).tokens
    made = made[(made >= 0) & (made != 2)]
    whole = tokenizer.decode([*prompt, *made.tolist()])
    text = "".join(writer.chat([{"role": "user", "content": "the dog"}]))
    assert whole == tokenizer.decode(prompt) + text


TEXTS = ["a bad", "good", "a very very very long film", "b", "good good", "film " * 9, "c d e"]


def convnet(fill):
    config = TextConvNetConfig(vocab_size=259, num_classes=3, embed_size=8, num_filters=4)
    return fill(lambda key: TextConvNet(config, key=key))


def transformer(fill):
    config = TransformerClassifierConfig(vocab_size=259, num_classes=3, embed_size=8, max_length=16)
    return fill(lambda key: TransformerClassifier(config, key=key))


@pytest.mark.parametrize("make", [convnet, pytest.param(transformer, marks=pytest.mark.slow)])
def test_a_classifier_gives_each_text_its_probabilities(make, fill):
    model = make(fill)
    names = ("no", "maybe", "yes")
    classifier = Classifier(
        model=model, tokenizer=BYTES, class_names=names, max_tokens=16, truncation="both", batch_size=4
    )
    found = classifier.probabilities(TEXTS)
    still = eqx.filter_jit(eqx.nn.inference_mode(model))
    for text, row in zip(TEXTS, found, strict=True):
        ids = BYTES.encode(text)
        ids = ids if len(ids) <= 16 else np.concatenate([ids[:8], ids[-8:]])
        logits = still(jnp.asarray(np.pad(ids, (0, 16 - len(ids)))), np.int32(len(ids)))
        np.testing.assert_allclose(row, jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)
    done: list[int] = []
    answers = classifier(TEXTS, progress=done.append)
    assert sum(done) == len(TEXTS)
    assert max(done) <= 4 < len(TEXTS)
    assert [list(answer) for answer in answers] == [list(names)] * len(TEXTS)
    assert [answer["yes"] for answer in answers] == pytest.approx(found[:, 2])


def test_what_a_classifier_does_not_take_is_named(fill):
    model = convnet(fill)
    with pytest.raises(ValueError, match="class_names must be 3"):
        Classifier(model=model, tokenizer=BYTES, class_names=("no", "yes"))
    classifier = Classifier(model=model, tokenizer=BYTES, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="at least one token; there is none in ''"):
        classifier(["good", ""])
    with pytest.raises(TypeError, match="texts must be a sequence of texts, got the text 'good'"):
        classifier("good")


@pytest.mark.usefixtures("as_users")
def test_names_of_classes_are_told_apart(fill):
    model: Any = {"model": convnet(fill), "tokenizer": BYTES}
    with pytest.raises(ValueError, match=r"class_names must have each name once, got \['a', 'b', 'a'\]"):
        Classifier(**model, class_names=("a", "b", "a"))
    with pytest.raises(TypeError, match="class_names must be a sequence of texts, got the text 'abc'"):
        Classifier(**model, class_names="abc")


def test_a_row_of_ids_must_be_one(fill):
    classifier = Classifier(model=convnet(fill), tokenizer=BYTES, class_names=("a", "b", "c"), max_tokens=16)
    for row, message in (
        (np.zeros(0, np.int32), "text 1 must have 1 to 16 tokens, got 0"),
        (np.zeros(17, np.int32), "text 1 must have 1 to 16 tokens, got 17"),
        (np.array([0, 259]), r"text 1 has token 259, which is outside the model's vocabulary \(0 to 258\)"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier.probabilities_of_ids([np.arange(3), row, np.arange(2)])


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (kind, {name: value})
        for kind, name, values in (
            ("writer", "batch_size", (-1, 0, 2.5, None)),
            ("writer", "max_new_tokens", (-4, 1.5)),
            ("writer", "temperature", (-1.0, "hot")),
            ("writer", "top_p", (1.5,)),
            ("classifier", "batch_size", (-1, None)),
            ("classifier", "max_tokens", (0, -3)),
            ("classifier", "truncation", ("middle",)),
            ("embedder", "batch_size", (-1,)),
            ("embedder", "max_tokens", (0,)),
            ("embedder", "pooling", ("max",)),
            ("translator", "batch_size", (0,)),
            ("translator", "normal_form", ("NFX",)),
            ("translator", "standardise", (1,)),
        )
        for value in values
    ],
    ids=str,
)
def test_a_setting_out_of_its_range_is_named_when_it_is_made(kind, wrong):
    (name,) = wrong
    model = None  # no model is asked
    given: Any = {
        "writer": lambda: Writer(model=model, tokenizer=BYTES, **wrong),
        "classifier": lambda: Classifier(model=model, tokenizer=BYTES, class_names=("a", "b", "c"), **wrong),
        "embedder": lambda: Embedder(model=model, tokenizer=BYTES, **wrong),
        "translator": lambda: Translator(model=model, source=BYTES, target=BYTES, **wrong),
    }
    with pytest.raises(ValueError, match=f"{name} must be"):
        given[kind]()


TINY: Any = {"embed_size": 8, "num_layers": 1, "num_heads": 2, "mlp_size": 16, "max_length": 9}


def masked_words():
    words = {"type": "WordLevel", "vocab": {"?": 0, "[MASK]": 1, "a": 2, "cat": 3}, "unk_token": "?"}
    return HuggingFaceTokenizer({"model": words, "pre_tokenizer": {"type": "WhitespaceSplit"}}, mask_id=1)


def test_a_mask_is_filled_with_what_the_tokenizer_has(fill, as_users):
    model = fill(lambda key: TextEncoder(TextEncoderConfig.bert(vocab_size=6, **TINY), key=key))
    filled = fill_mask(model, masked_words(), "a [MASK]", most=9)
    assert sorted(text for text, _ in filled) == ["a ?", "a [MASK]", "a a", "a cat"]
    most: Any
    for most in (-1, 2.5, None):
        with pytest.raises(ValueError, match="most must be a whole number of at least 0"):
            fill_mask(model, masked_words(), "a [MASK]", most=most)


def test_ids_of_another_tokenizer_are_refused(fill):
    """The model would give NaN."""
    encoder = fill(lambda key: TextEncoder(TextEncoderConfig.bert(vocab_size=3, **TINY), key=key))
    pair = fill(lambda key: EncoderDecoder(EncoderDecoderConfig(vocab_size=3, **TINY), key=key))
    words = WordTokenizer(["good"])
    asked: Any = (
        (lambda: Embedder(model=encoder, tokenizer=words)(["bad", "good"]), "text 1"),
        (lambda: Translator(model=pair, source=words, target=words)(["good"]), "text 0"),
        (lambda: fill_mask(encoder, masked_words(), "cat [MASK]"), "text 0"),
    )
    for ask, text in asked:
        with pytest.raises(ValueError, match=f"{text} has token 3, .* is this the model's tokenizer"):
            ask()


def test_an_embedder_gives_unit_vectors_that_padding_does_not_change(fill):
    definition = trained.definition("word piece")
    tokenizer = HuggingFaceTokenizer(definition, pad_id=0)
    config = TextEncoderConfig(vocab_size=200, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=32)
    model = eqx.nn.inference_mode(fill(lambda key: TextEncoder(config, key=key)))
    for pooling in ("mean", "first"):
        embedder = Embedder(model=model, tokenizer=tokenizer, pooling=pooling, max_tokens=12, batch_size=2)
        done: list[int] = []
        vectors = embedder(trained.LINES[:5], progress=done.append)
        assert sum(done) == 5
        for line, vector in zip(trained.LINES, vectors, strict=False):
            ids = tokenizer.encode(line)
            ids = np.concatenate([ids[:11], ids[-1:]])  # of a text that is cut, [SEP] stays
            assert ids[-1] == 3
            np.testing.assert_allclose(
                vector, eqx.filter_jit(model.embed)(jnp.asarray(ids), pooling=pooling), rtol=1e-4, atol=1e-6
            )
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


@pytest.fixture(scope="module")
def translator(fill):
    config = EncoderDecoderConfig(
        vocab_size=259, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=48
    )
    model = fill(lambda key: EncoderDecoder(config, key=key))
    return Translator(model=model, source=BYTES, target=BYTES, normal_form="NFC", batch_size=4)


@pytest.mark.parametrize("num_beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_translator_gives_each_text_what_its_model_writes(translator, num_beams):
    texts = ["I see", "the cat, too", "a", "n\u0303o", "the dog"]
    done: list[int] = []
    found = translator(texts, num_beams=num_beams, max_new_tokens=8, progress=done.append)
    assert sum(done) == len(texts)
    for text, translation in zip(texts, found, strict=True):
        ids = BYTES.encode(text.replace("n\u0303", "ñ"))
        padded = np.pad(ids, (0, width_of(len(ids), 48) - len(ids)))
        decoder = translator.model.decoder(padded, np.int32(len(ids)))
        options: Any = {"max_new_tokens": 8, "stop_ids": [BYTES.stop_id]}
        if num_beams == 1:
            tokens = generate(decoder, [BYTES.start_id], **options).tokens
        else:
            tokens = beam_search(decoder, [BYTES.start_id], num_beams=3, length_penalty=1.0, **options).tokens[0]
        assert translation == BYTES.decode(np.asarray(tokens)[np.asarray(tokens) >= 0])


def test_a_translation_has_room_after_all_start_ids_and_shows_no_stop(fill):
    letters = CharacterTokenizer("abcd\n")
    sizes: Any = {"vocab_size": 5, **TINY, "start_ids": (0, 1)}
    for stops, most in (((4,), 7), ((0, 1, 2, 3, 4), 0)):
        config = EncoderDecoderConfig(**sizes, stop_ids=stops)
        model = fill(lambda key, config=config: EncoderDecoder(config, key=key))
        options: Any
        for options in ({}, {"max_new_tokens": 9}):
            (text,) = Translator(model=model, source=letters, target=letters)(["ab"], **options)
            assert len(text) <= most
            assert "\n" not in text


def test_what_a_translator_does_not_take_is_named(translator):
    with pytest.raises(ValueError, match="a text must have 1 to 48 tokens, got 0 in ''"):
        translator(["a", ""])
    with pytest.raises(ValueError, match="got 49 in"):
        translator(["a" * 49])
    with pytest.raises(TypeError, match="put it into a list"):
        translator("I see")


def test_standardised_texts_have_no_capitals_and_no_marks(translator):
    plain = Translator(model=translator.model, source=BYTES, target=BYTES, normal_form="NFC", standardise=True)
    assert plain.normalised(" \u00bfQue\u0301  es ESO?") == "qu\u00e9 es eso"
    assert translator.normalised(" A. ") == "A."


def test_one_file_holds_it_all(writer, translator, fill, tmp_path):
    classifier = Classifier(
        model=convnet(fill), tokenizer=BYTES, class_names=("a", "b", "c"), max_tokens=7, truncation="tail"
    )
    config = TextEncoderConfig(vocab_size=200, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=32)
    embedder = Embedder(
        model=fill(lambda key: TextEncoder(config, key=key)),
        tokenizer=HuggingFaceTokenizer(trained.definition("word piece")),
        pooling="first",
    )
    path = tmp_path / "pipeline.safetensors"
    for pipeline in (writer, classifier, translator, embedder):
        pipeline.save(path)
        again = load(path)
        assert type(again) is type(pipeline)
        for name, value in vars(pipeline).items():
            if name in ("model", "decoder", "_still"):
                continue
            kept = getattr(again, name)
            assert (tuple(kept) if isinstance(kept, list) else kept) == value, name
    assert eqx.tree_equal(zoo.load(path), embedder.model)
    zoo.save(path, writer.model)
    with pytest.raises(zoo.ModelFileError, match="without a tokenizer"):
        load(path)
    zoo.save(path, writer.model, extra={"pipeline": "Writer"})
    with pytest.raises(zoo.ModelFileError, match="damaged header"):
        load(path)


def test_a_tokenizer_of_ones_own_is_not_saved(writer, tmp_path):
    class Lower(CharacterTokenizer):
        def encode(self, text):
            return super().encode(text.lower())

    with pytest.raises(ValueError, match="tokenizer is a Lower, which no file gives back"):
        Writer(model=writer.model, tokenizer=Lower(ALPHABET)).save(tmp_path / "lower.safetensors")
    assert not any(tmp_path.iterdir())


def test_what_sentence_transformers_adds_is_kept_or_refused(fill, tmp_path):
    def write(name: str, content: Any) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))

    encoder = fill(lambda key: TextEncoder(TextEncoderConfig.bert(vocab_size=4, **TINY), key=key))
    zoo.to_pretrained(tmp_path, encoder)
    write("tokenizer.json", masked_words().definition)
    parts = [("", "Transformer"), ("pool", "Pooling"), ("2_Normalize", "Normalize"), ("3_Dense", "Dense")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in parts]
    write("modules.json", modules[:3])
    write("pool/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    write("sentence_bert_config.json", {"max_seq_length": 7, "do_lower_case": False})
    embedder = Embedder.from_pretrained(tmp_path)
    assert (embedder.pooling, embedder.max_tokens) == ("first", 7)
    write("sentence_bert_config.json", {"do_lower_case": True})
    with pytest.raises(ValueError, match="do_lower_case, and a tokenizer that keeps capitals"):
        Embedder.from_pretrained(tmp_path)
    write("tokenizer.json", masked_words().definition | {"normalizer": {"type": "Lowercase"}})
    assert Embedder.from_pretrained(tmp_path).max_tokens is None
    write("modules.json", modules)
    with pytest.raises(ValueError, match="has a part Dense"):
        Embedder.from_pretrained(tmp_path)


def test_classes_of_one_name_are_numbered(fill, tmp_path):
    names: Any = {"head": "classifier", "num_classes": 3, "class_names": ("no", "yes", "no")}
    config = TextEncoderConfig.bert(vocab_size=4, **TINY, **names)
    zoo.to_pretrained(tmp_path, fill(lambda key: TextEncoder(config, key=key)))
    (tmp_path / "tokenizer.json").write_text(json.dumps(masked_words().definition))
    assert Classifier.from_pretrained(tmp_path).class_names == ("0 no", "1 yes", "2 no")


def test_what_earlier_examples_saved_is_known(writer, translator, fill, tmp_path):
    path = tmp_path / "model.safetensors"
    zoo.save(path, writer.model, extra={"tokenizer": writer.tokenizer.to_json(), "text": "tinyshakespeare"})
    assert load(path)("ab", max_new_tokens=5) == writer("ab", max_new_tokens=5)
    cut: Any = {"class_names": ["a", "b", "c"], "max_tokens": 7, "truncation": "tail"}
    zoo.save(path, convnet(fill), extra={"tokenizer": BYTES.to_json(), **cut})
    assert load(path).truncation == "tail"
    sides = {"source": BYTES.to_json(), "target": BYTES.to_json(), "standardise": True}
    zoo.save(path, translator.model, extra=sides)
    assert load(path).normalised("E\u0301!") == "\u00e9"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.sampled_from([1, 4, 16]))
def test_batches_have_each_row_once_in_few_shapes(lengths, batch_size):
    rows = [np.arange(length) + 1 for length in lengths]
    seen, shapes = [], set()
    for real, tokens, counts in in_batches(rows, batch_size=batch_size, most=50 if max(lengths) <= 50 else None):
        shapes.add(tokens.shape)
        assert len(tokens) <= batch_size
        for i, row, count in itertools.zip_longest(real.tolist(), tokens, counts):
            if i is None:
                assert (count, row.any()) == (1, False)
                continue
            seen.append(i)
            assert row[:count].tolist() == rows[i].tolist()
            assert not row[count:].any()
            assert len(row) == width_of(len(rows[i]), 50 if max(lengths) <= 50 else None)
    assert sorted(seen) == list(range(len(rows)))
    assert len(shapes) <= 3 * len({width for _, width in shapes})


@pytest.mark.parametrize(("truncation", "kept"), [("head", "abcd"), ("tail", "mnop"), ("both", "abop")])
def test_a_long_text_is_cut_as_asked(truncation, kept, as_users):
    middle: Any = "middle"
    text = "abcdefghijklmnop"
    assert BYTES.decode(encoded(BYTES, text, 4, truncation)) == kept
    assert BYTES.decode(encoded(BYTES, text, None, truncation)) == text
    with pytest.raises(ValueError, match="truncation must be one of head, tail, both; got 'middle'"):
        encoded(BYTES, text, 4, middle)
