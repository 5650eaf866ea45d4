"""What is installed: exactly the tracked files, under one name, and light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import icf_deploy

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"icf_deploy": "icf_deploy", "export": "icf_deploy/export", "runtimes": "icf_deploy/runtimes"}
PLACES["benchmarks"] = "icf_deploy/benchmarks"
NOT_INSTALLED = ("benchmarks/suites/",)
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cv2", "safetensors")


def _fresh(code: str) -> str:
    """What `code` prints in a Python of its own, which sees the same package as this one."""
    path = str(Path(icf_deploy.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return done.stdout.strip()


def test_the_installed_package_holds_exactly_the_tracked_files() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    expected = set()
    for file in tracked:
        top, _, rest = file.partition("/")
        if top in PLACES and rest and not file.startswith(NOT_INSTALLED):
            expected.add(f"{PLACES[top]}/{rest}")
    package = Path(icf_deploy.__file__).parent
    found = {
        f"icf_deploy/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected


def test_installed_files_equal_the_tracked_ones_byte_for_byte() -> None:
    package = Path(icf_deploy.__file__).parent
    for top, place in PLACES.items():
        for path in (ROOT / top).rglob("*.py"):
            relative = path.relative_to(ROOT).as_posix()
            if relative.startswith(NOT_INSTALLED):
                continue
            installed = package.parent / place / path.relative_to(ROOT / top)
            assert installed.read_bytes() == path.read_bytes(), f"{relative} differs from the wheel: the wheel is stale"


def test_no_module_is_loaded_under_a_stages_bare_name() -> None:
    """After importing everything, `export`, `runtimes` and `benchmarks` exist only inside icf_deploy."""
    printed = _fresh(
        "import pkgutil, importlib, icf_deploy\n"
        "for m in pkgutil.walk_packages(icf_deploy.__path__, 'icf_deploy.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('export', 'runtimes', 'benchmarks')))"
    )
    assert printed == "[]"


def test_importing_the_package_loads_no_engine_and_no_framework() -> None:
    assert _fresh(f"import icf_deploy\nprint([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_nothing_of_the_device_side_imports_torch_or_onnx() -> None:
    """Every device module, imported in a fresh Python, leaves the frameworks of the host unloaded."""
    printed = _fresh(
        "import importlib, pathlib, icf_deploy\n"
        "host = ('network', 'training', 'export')\n"
        "root = pathlib.Path(icf_deploy.__file__).parent\n"
        "for path in sorted(root.rglob('*.py')):\n"
        "    parts = path.relative_to(root).with_suffix('').parts\n"
        "    if parts[0] not in host and parts[-1] not in ('__init__', '__main__'):\n"
        "        importlib.import_module('.'.join(('icf_deploy', *parts)))\n"
        "print([m for m in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    assert printed == "[]"
