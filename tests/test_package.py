"""What the package promises as a whole: layers, light imports, a wheel of `zoo` alone, commands that are true."""

import ast
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"zoo": set(), "data": set(), "training": {"zoo.serialisation"}}


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
        ("zoo/nn", ("zoo.models", "zoo.sampling", "zoo.decoder", "zoo.pretrained", "zoo.serialisation")),
        ("zoo/sampling", ("zoo.models", "zoo.nn", "zoo.pretrained", "zoo.serialisation")),
        ("data", ("jax", "equinox")),
    ],
)
def test_parts_know_no_more_than_they_should(folder, forbidden):
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported_by(file):
            assert not any(name == no or name.startswith(no + ".") for no in forbidden), f"{file} imports {name}"


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_import_zoo_is_light():
    loaded = set(json.loads(fresh("import json, sys, zoo; print(json.dumps(sorted(sys.modules)))")))
    assert not loaded & {"tiktoken", "grain", "optax", "matplotlib", "tqdm", "tyro", "data", "training"}


def test_types_are_checked_on_demand():
    wrong = "import os; os.environ['ZOO_TYPECHECK'] = '{}'; import jax.numpy as jnp; from zoo.nn import causal_mask\n"
    wrong += "try: causal_mask('three')\nexcept Exception as error: print(type(error).__name__)"
    assert fresh(wrong.format(1)).strip() == "TypeCheckError"
    assert fresh(wrong.format(0)).strip() != "TypeCheckError"


def test_public_names_are_exported_with_docstrings():
    import zoo

    public = {name: value for name, value in vars(zoo).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert {"TransformerLM", "generate", "save", "load"} <= public.keys()
    for name, value in public.items():
        assert value.__doc__, f"zoo.{name} has no docstring"


def test_the_wheel_holds_zoo_alone(tmp_path):
    pytest.importorskip("hatchling", reason="building needs hatchling, which an isolated build brings itself")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo"}
    assert "zoo/py.typed" in zipfile.ZipFile(wheel).namelist()


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
        assert ">=" in requirement, requirement
        assert "<" not in requirement, requirement
        assert "==" not in requirement, requirement
