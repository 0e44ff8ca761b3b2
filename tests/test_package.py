"""What the package promises as a whole: layers, light imports, a wheel of `zoo` alone, commands that are true."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import typing
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"zoo": set(), "data": set(), "training": {"zoo.atomic_write"}}


def imported_by(file: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_do_not_import_one_another(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    for file in files:
        for name in imported_by(file):
            top = name.partition(".")[0]
            if top in {*LAYERS, "examples", "tests"} - {layer}:
                allowed = any(name == only or name.startswith(only + ".") for only in LAYERS[layer])
                assert allowed, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("zoo/nn", ("zoo.models", "zoo.sampling", "zoo.decoder", "zoo.pretrained", "zoo.serialisation", "zoo.text")),
        ("zoo/sampling", ("zoo.models", "zoo.nn", "zoo.pretrained", "zoo.serialisation", "zoo.text")),
        ("zoo/models", ("zoo.pretrained", "zoo.serialisation", "zoo.text")),
        ("zoo/pretrained", ("zoo.text",)),
        ("data", ("jax", "equinox")),
    ],
)
def test_parts_know_no_more_than_they_should(folder, forbidden):
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported_by(file):
            assert not any(name == no or name.startswith(no + ".") for no in forbidden), f"{file} imports {name}"


def fresh(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return done.stdout


def distribution(requirement: str) -> str:
    return re.split(r"[\[>]", requirement)[0]


def test_the_wheel_requires_what_zoo_imports_and_nothing_else():
    def tops(files):
        names = {name.partition(".")[0] for file in files for name in imported_by(file)}
        return names - sys.stdlib_module_names - {"zoo"}

    files = set((ROOT / "zoo").rglob("*.py"))
    text = set((ROOT / "zoo" / "text").rglob("*.py"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {distribution(item) for item in project["dependencies"]}
    by_name = {"beartype"}  # jaxtyping imports it where ZOO_TYPECHECK asks for it
    assert tops(files - text) | by_name == base
    assert tops(text) - base == {distribution(item) for item in project["optional-dependencies"]["text"]}


def test_import_zoo_is_light():
    loaded = set(json.loads(fresh("import json, sys, zoo; print(json.dumps(sorted(sys.modules)))")))
    assert "zoo.text" not in loaded
    of_text = {"tiktoken", "tokenizers", "sentencepiece", "jinja2"}
    assert not loaded & of_text
    assert not loaded & {"grain", "optax", "matplotlib", "tqdm", "data", "training"}


@pytest.fixture
def foreign_data(tmp_path) -> str:
    """A folder with somebody else's package `data`, whose annotations are no promise of ours."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("def load(n: int):\n    return n * 2\n")
    return str(tmp_path)


@pytest.mark.parametrize(("asked", "checked"), [("1", True), ("0", False)])
def test_types_of_zoo_alone_are_checked_on_demand(foreign_data, asked, checked):
    code = f"""
import sys
sys.path.insert(0, {foreign_data!r})
from zoo.nn import causal_mask
import data
print(data.load("ab"))
try:
    causal_mask("three")
except Exception as error:
    print(type(error).__name__)
"""
    doubled, error = fresh(code, ZOO_TYPECHECK=asked).split()
    assert doubled == "abab"
    assert (error == "TypeCheckError") == checked


def test_public_names_are_exported_with_docstrings():
    import zoo

    public = {name: value for name, value in vars(zoo).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert {"TransformerLM", "generate", "save", "load"} <= public.keys()
    for name, value in public.items():
        assert value.__doc__, f"zoo.{name} has no docstring"


def test_a_star_brings_all_public_names_of_zoo_text():
    import zoo.text

    brought: dict[str, object] = {}
    exec("from zoo.text import *", brought)
    public = {name for name, value in vars(zoo.text).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert brought.keys() - {"__builtins__"} == public == set(zoo.text.__all__)


def functions_for_users():
    """Of `zoo`, `zoo.text` and `training` all, of `data` those that read a file or a folder."""
    import data.imdb
    import data.keras_imdb
    import data.labelled
    import data.pairs
    import data.spa_eng
    import data.text
    import data.tokenised_text
    import data.vocabularies
    import training
    import zoo
    import zoo.text

    everything = [getattr(package, name) for package in (zoo, zoo.text, training) for name in dir(package)]
    yield from filter(inspect.isfunction, everything)
    yield from (data.imdb.load_imdb, data.keras_imdb.load_keras_imdb, data.spa_eng.load_spa_eng)
    yield from (data.labelled.load_labelled, data.labelled.read_labelled, data.text.load_text, data.text.read_text)
    yield from (data.pairs.read_pairs, data.pairs.read_parallel, data.tokenised_text.tokenised_text)
    yield data.vocabularies.fetch_vocabulary


def test_whoever_takes_a_path_takes_a_string():
    takes = 0
    for function in functions_for_users():
        for name, hint in typing.get_type_hints(function).items():
            kinds = typing.get_args(hint) or (hint,)
            takes += str in kinds and os.PathLike[str] in kinds
            assert name == "return" or Path not in kinds, f"{function.__module__}.{function.__name__}: {name}"
    assert takes > 12


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building needs hatchling, which an isolated build brings itself")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_zoo_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo"}
    assert "zoo/py.typed" in names


AS_A_USER = """
import sys
import jax, zoo, data
assert "site-packages" in zoo.__file__, zoo.__file__
config = zoo.TransformerLMConfig(vocab_size=7, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=16)
lm = zoo.TransformerLM(config, key=jax.random.key(0))
answer = zoo.generate(lm.decoder(), [1, 2], max_new_tokens=3)
beams = zoo.beam_search(lm.decoder(), [1, 2], max_new_tokens=3, num_beams=2)
zoo.save("lm.safetensors", lm)
again = zoo.generate(zoo.load("lm.safetensors").decoder(), [1, 2], max_new_tokens=3)
assert again.tokens.tolist() == answer.tokens.tolist()
assert beams.tokens.shape == (2, 3)
print(zoo.__version__, data.load("ab"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("checked", ["0", "1"])
def test_the_wheel_works_in_an_environment_of_its_own(wheel, foreign_data, environment, checked):
    """With the base requirements only, outside the repository, beside a foreign package called `data`."""
    python = environment / "bin" / "python"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"ZOO_TYPECHECK": checked}
    done = subprocess.run([python, "-c", AS_A_USER], capture_output=True, text=True, cwd=foreign_data, env=env)
    assert done.returncode == 0, done.stderr
    version = wheel.name.split("-")[1]
    assert done.stdout.split() == [version, "abab"]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment that holds the wheel and what the wheel requires."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    done = subprocess.run([folder / "bin" / "pip", "install", "-q", wheel], capture_output=True, text=True)
    if "connection" in done.stderr.lower() or "No matching distribution" in done.stderr:
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
    return folder


def test_readme_has_two_commands_and_its_code_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    blocks = text.split("```")[1::2]
    commands = [block for block in blocks if block.startswith("bash\npython3 -m venv")]
    assert len(commands) == 2
    (code,) = [block.removeprefix("python\n") for block in blocks if block.startswith("python\n")]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "total" in capsys.readouterr().out


def test_lower_bounds_without_upper_caps():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    for requirement in project["dependencies"] + extras:
        if distribution(requirement) == project["name"]:
            continue  # extras that take in others
        assert ">=" in requirement, requirement
        assert "<" not in requirement, requirement
        assert "==" not in requirement, requirement
