"""Folders that are damaged, hostile, or of a model that the zoo does not have: one error, before memory is taken."""

import contextlib
import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from zoo import TransformerLM, TransformerLMConfig
from zoo.pretrained import PretrainedError

SIZES = {"vocab_size": 11, "embed_size": 8, "num_layers": 2, "num_heads": 2, "mlp_size": 12, "max_length": 32}


BANDS = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip


def make_llama(fill, **changes):
    return fill(lambda key: TransformerLM(TransformerLMConfig.llama(**SIZES | changes), key=key))


@pytest.fixture(scope="module")
def original(fill, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    zoo.to_pretrained(folder, make_llama(fill))
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A sound one, to be spoiled."""
    for file in original.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def refused(folder, words, **how):
    with pytest.raises(PretrainedError, match=words) as caught:
        zoo.from_pretrained(folder, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("openai-community/gpt2", "hf download openai-community/gpt2 --local-dir openai-community/gpt2"),
        ("gpt2", "hf download gpt2 --local-dir gpt2"),
        ("/no/such/folder/here", "hf download ORGANISATION/MODEL --local-dir /no/such/folder/here"),
    ],
)
def test_a_missing_folder_says_how_to_get_it(name, command):
    with pytest.raises(PretrainedError, match=re.escape(f"`{command}`")):
        zoo.from_pretrained(name)


def test_every_cut_is_noticed(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *np.random.default_rng(0).integers(10, len(content), 30), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(folder, "model.safetensors is not a complete safetensors file")
    path.unlink()
    refused(folder, r"has no model\.safetensors or pytorch_model\.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), r"has no tensor model\.norm\.weight, which this llama needs"),
        (lambda t: t.pop("lm_head.weight"), r"has no tensor lm_head\.weight"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda t: t.update(a=np.ones(1, "f4"), b=np.ones(1, "f4")), r"has a, b, which this llama has no place for"),
        (lambda t: t.update({"model.norm.bias": np.ones(8, "f4")}), r"has model\.norm\.bias, which"),
        (
            lambda t: t.update({"model.norm.weight": np.ones(9, "f4")}),
            r"model\.norm\.weight has shape \[9\], where config\.json says \[8\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.ones(8, "i1")}),
            r"model\.norm\.weight is I8, and weights are floats",
        ),
        (lambda t: t.update({"model.norm.weight": np.ones(8)}), r"stored as float64, which needs JAX_ENABLE_X64=1"),
    ],
)
def test_other_tensors_are_refused(folder, change, words):
    change_tensors(folder, change)
    refused(folder, words)


def test_a_type_is_asked_for(folder):
    change_tensors(folder, lambda t: t.update({"model.norm.weight": np.arange(8.0)}))
    assert zoo.from_pretrained(folder, dtype=jnp.float32).final_norm.weight.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, r'model_type = "mamba", which must be one of .*gpt2.*llama'),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_act": "mish"}, r'hidden_act = "mish", which must be one of'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, r'rope_type = "yarn"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r'type = "dynamic"'),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling of .* has no factor"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}, "rotary_factor must be finite and above 0"),
        ({"rope_scaling": 3}, "rope_scaling = 3, which must be an object"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "8"}, r'hidden_size = "8", which must be a whole number'),
        ({"hidden_size": True}, "hidden_size = true"),
        ({"hidden_size": -8}, "hidden_size = -8"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": 10**9}, r"has shape \[11, 8\], where config\.json says \[11, 1000000000\]"),
        ({"num_attention_heads": 3}, "must be a multiple of num_kv_heads"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rms_norm_eps": 0.0}, "norm_epsilon must be finite and above 0"),
        ({"attention_bias": 1}, "attention_bias = 1, which must be true or false"),
        ({"eos_token_id": 11}, r"stop_ids must be ids in 0\.\.10"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"bad_words_ids": [[1, 2]]}, "bad_words_ids"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window = 0"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "max_window_layers = 1, which must be such that all layers have a window or none has",
        ),
        (
            {"model_type": "gemma2", "tie_word_embeddings": True, "layer_types": ["full_attention"] * 2},
            "layer_types = ",
        ),
        ({"model_type": "gemma", "hidden_activation": "relu"}, 'hidden_activation = "relu"'),
        *(
            (
                {
                    "model_type": name,
                    "tie_word_embeddings": True,
                    "hidden_activation": "gelu_new",
                    "rope_scaling": BANDS,
                },
                r"rope_scaling = .*, which must be of type default or linear",
            )
            for name in ("gemma", "gemma2")
        ),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention = true"),
        ({"model_type": "gpt2", "n_layer": 2}, r"no tensor wte\.weight"),
    ],
    ids=str,
)
def test_configs_that_we_cannot_do(folder, changes, words):
    (folder / "generation_config.json").unlink()
    change_config(folder, **changes)
    refused(folder, words)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 10**6, b'{"a": ' * 10**5, b" " * 2**25])
def test_a_config_that_is_no_json_object(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder, r"config\.json (is not JSON|holds no JSON object|is larger than)")
    (folder / "config.json").unlink()
    refused(folder, r"config\.json can't be read: No such file")


def test_enormous_models_take_no_memory(folder):
    tracemalloc.start()
    for sizes in ({"num_hidden_layers": 10**5}, {"num_hidden_layers": 10**9}, {"vocab_size": 2**31 - 1}):
        change_config(folder, **{"num_hidden_layers": 2, **sizes})
        refused(folder, r"no tensor model\.layers\.2\.|has shape \[11, 8\], where")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..", "", "x.bin"]
)
def test_an_index_names_files_beside_it_alone(folder, name):
    os.rename(folder / "model.safetensors", folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    refused(folder, "which is not the name of a .safetensors file beside it")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": [name]}))
    refused(folder, "has no weight_map")


def test_an_index_of_a_file_that_is_not_there(folder):
    os.rename(folder / "model.safetensors", folder / "one.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "one.safetensors"}}))
    assert zoo.from_pretrained(folder).vocab_size == 11
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    refused(folder, r"two\.safetensors is not a complete safetensors file")


def test_a_snapshot_of_the_cache_is_read_through_its_links(folder, tmp_path_factory):
    snapshot = tmp_path_factory.mktemp("cache") / "models--someone--llama" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file)
    model = zoo.from_pretrained(snapshot)
    (folder / "LICENSE").write_text("as you like")
    (snapshot / "LICENSE").symlink_to(folder / "LICENSE")
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: another\n---\nA llama.\n")
    (snapshot / "README.md").symlink_to(folder / "README.md")
    zoo.to_pretrained(folder / "out", model, base=snapshot)
    assert (folder / "out" / "LICENSE").read_text() == "as you like"
    card = (folder / "out" / "README.md").read_text()
    assert card == "---\nlicense: mit\nbase_model: someone/llama\n---\nA llama.\n"


def test_no_code_of_a_folder_is_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "modeling_evil.py").write_text("open('executed', 'w')")
    change_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, trust_remote_code=True)
    zoo.from_pretrained(folder)
    assert not (folder / "executed").exists()


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key, shape, strides=None, offset=0, kind="FloatStorage", maker="torch._utils\n_rebuild_tensor_v2"):
    """The instructions with which `torch.save` describes a tensor."""
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(99) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"t"
    return f"c{maker}\n".encode() + arguments + b"R"


def write_torch(path, tensors, storages, compression=zipfile.ZIP_STORED):
    """A `pytorch_model.bin`, by hand."""
    items = b"".join(text(name) + description for name, description in tensors.items())
    metadata = b"}" + text("_metadata") + b"ccollections\nOrderedDict\n)Rsb"  # what a state_dict has as an attribute
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(
            "archive/data.pkl", b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + metadata + b"."
        )
        archive.writestr("archive/byteorder", b"little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


@pytest.fixture
def torch_folder(folder):
    """The same model as a `pytorch_model.bin`; and what is in it."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    described = {name: tensor(str(i), array.shape) for i, (name, array) in enumerate(tensors.items())}
    return folder, described, {str(i): array for i, array in enumerate(tensors.values())}


def test_a_torch_file_is_read_without_torch(torch_folder, original, same_bits):
    folder, described, storages = torch_folder
    # Two tensors share a storage; one is stored transposed; one is a parameter.
    write_torch(folder / "pytorch_model.bin", described, storages)
    assert same_bits(zoo.from_pretrained(folder), zoo.from_pretrained(original))
    assert "torch" not in sys.modules
    name = next(name for name in described if name.endswith("up_proj.weight"))
    key = str(list(described).index(name))
    wide = np.concatenate([np.zeros(5, "f4"), storages[key].T.ravel()])
    described[name] = tensor(key, (12, 8), strides=(1, 12), offset=5)
    write_torch(folder / "pytorch_model.bin", described, storages | {key: wide})
    assert same_bits(zoo.from_pretrained(folder), zoo.from_pretrained(original))


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (b"cposix\nsystem\n(" + text("echo > executed") + b"tR", "a reference to 'posix.system'"),
        (b"c__builtin__\neval\n(" + text("1") + b"tR", "a reference to '__builtin__.eval'"),
        (tensor("0", (8,), kind="load"), "a reference to 'torch.load'"),
        (tensor("0", (8,), maker="torch._utils\n_rebuild_wrapper"), "_rebuild_wrapper"),
        (tensor("0", (99999,)), "a tensor reaches beyond its storage"),
        (tensor("0", (2,), strides=(2**30,)), "a tensor reaches beyond its storage"),
        (tensor("0", (8,), offset=10**6), "a tensor reaches beyond its storage"),
        (tensor("0", (-8,)), "not described as tensors are"),
        (tensor("0", (8,), strides=(-1,)), "not described as tensors are"),
        (tensor("0", (1, 8), strides=(1,)), "not described as tensors are"),
        (tensor("99", (8,)), "archive/data/99"),
        (tensor("../../x", (8,)), "archive/data/"),
        (number(3), "is no tensor"),
        (text("x") + b"Q", ""),
    ],
)
def test_hostile_torch_files_run_nothing(torch_folder, spoilt, words, monkeypatch):
    folder, described, storages = torch_folder
    monkeypatch.chdir(folder)
    write_torch(folder / "pytorch_model.bin", described | {"model.norm.weight": spoilt}, storages)
    refused(folder, "pytorch_model.bin is refused, nothing in it was executed: .*" + words)
    assert not (folder / "executed").exists()


def test_damaged_torch_files(torch_folder):
    folder, described, storages = torch_folder
    path = folder / "pytorch_model.bin"
    write_torch(path, described, storages)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 1, *rng.integers(2, len(content), 30), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(folder, r"pytorch_model\.bin (is not a complete zip|is refused)")
    end = content.index(b"archive/byteorder")
    for at in rng.integers(0, end, 60):  # in the pickle; what loads nevertheless differs in a number or a name
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :])
        with contextlib.suppress(PretrainedError):
            zoo.from_pretrained(folder)
    write_torch(path, described, storages, compression=zipfile.ZIP_DEFLATED)
    refused(folder, "its entries are compressed")
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    refused(folder, "written by torch before 1.6")


def test_changes_are_those_of_the_config(folder):
    model = zoo.from_pretrained(folder, dropout_p=0.25, remat=True, max_length=16)
    assert (model.config.dropout_p, model.config.remat, model.max_length) == (0.25, True, 16)
    with pytest.raises(TypeError, match="TransformerLMConfig has no field 'dropout'"):
        zoo.from_pretrained(folder, dropout=0.1)
    with pytest.raises(ValueError, match="dropout_p must be in"):
        zoo.from_pretrained(folder, dropout_p=1.5)
    refused(folder, r"where config\.json says \[12, 8\]", vocab_size=12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": "sinusoidal"}, r"llama has no positions='sinusoidal'"),
        (
            {"rotary_bands": [1.0, 4.0, 8], "rotary_factor": 2.0, "activation": "gelu_tanh", "window": 9},
            "llama has no window=9",
        ),
        ({"norm": "layer"}, "llama"),
        ({"gated": False}, "llama"),
    ],
)
def test_a_model_that_transformers_lacks_is_not_written(fill, tmp_path, changes, words):
    with pytest.raises(PretrainedError, match=words):
        zoo.to_pretrained(tmp_path / "out", make_llama(fill, **changes), model_type="llama")
    assert not (tmp_path / "out").exists()


def test_a_tree_without_a_family_is_not_written(tmp_path):
    rnn = zoo.CharRNN(zoo.CharRNNConfig(vocab_size=3, hidden_size=4, num_layers=1), key=jax.random.key(0))
    with pytest.raises(PretrainedError, match="no family of transformers has this CharRNN"):
        zoo.to_pretrained(tmp_path / "out", rnn)


def test_a_mistral_without_a_window_in_its_config_has_the_first_ones(fill, tmp_path):
    lm = make_llama(fill, max_length=8192, window=100)
    zoo.to_pretrained(tmp_path, lm, model_type="mistral")
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    for changed, window in ((settings, 100), (settings | {"sliding_window": None}, None)):
        path.write_text(json.dumps(changed))
        assert zoo.from_pretrained(tmp_path).config.window == window
    del settings["sliding_window"]
    path.write_text(json.dumps(settings))
    assert zoo.from_pretrained(tmp_path).config.window == 4096


def first_layer(leaf):
    return leaf[:1] if eqx.is_array(leaf) else leaf


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        (
            lambda m: m.embedding.weight,
            lambda _: jnp.ones((13, 8)),
            r"embedding.weight is float32\[13, 8\], the model",
        ),
        (lambda m: m.head, lambda _: None, r"1 missing array\(s\): head.weight"),
        (
            lambda m: m.stack.blocks,
            lambda b: jax.tree.map(first_layer, b),
            r"is float32\[1, .*takes float32\[2, ",
        ),
    ],
)
def test_a_model_that_its_config_does_not_make_is_not_written(fill, tmp_path, where, change, words):
    with pytest.raises(PretrainedError, match=f"TransformerLM is not what its config makes, .*{words}.*zoo.rebuild"):
        zoo.to_pretrained(tmp_path / "out", eqx.tree_at(where, make_llama(fill), replace_fn=change))
    assert not (tmp_path / "out").exists()


def test_more_start_ids_than_transformers_has_are_not_written(fill, tmp_path):
    with pytest.raises(PretrainedError, match=r"at most two ids .*got start_ids=\(1, 2, 3\)"):
        zoo.to_pretrained(tmp_path / "out", make_llama(fill, start_ids=(1, 2, 3)))
    assert not (tmp_path / "out").exists()
