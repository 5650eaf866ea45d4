from __future__ import annotations

import types
from pathlib import Path

from icf_deploy.runtimes import fingerprint
from icf_deploy.runtimes.fingerprint import code_field, processor_fields, system_fields

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu vme avx512f {extra}

processor\t: 1
model name\t: another
"""


def processor(root: Path, text: str) -> str:
    (root / "cpuinfo").write_text(text)
    return processor_fields(root)["processor"]


def test_processors_of_one_name_differ_by_their_instructions(tmp_path: Path) -> None:
    plain, with_amx = processor(tmp_path, X86.format(extra="")), processor(tmp_path, X86.format(extra="amx_bf16"))
    assert plain.startswith("Intel(R) Xeon(R) Processor, instructions ")
    assert plain != with_amx
    assert processor(tmp_path, X86.format(extra="")) == plain


def test_an_arm_processor_is_named_by_its_numbers(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    assert processor(tmp_path, text).startswith("0x41 0xd42, instructions ")


def test_a_system_that_states_no_processor_still_has_a_name_for_it(tmp_path: Path) -> None:
    assert processor_fields(tmp_path / "nowhere")["processor"]


def test_the_code_field_follows_the_source_of_the_modules_it_is_given(tmp_path: Path) -> None:
    class Loader:
        source = b"x = 1"

        def get_data(self, _: str) -> bytes:
            return self.source

    module, loader = types.ModuleType("built_with"), Loader()
    module.__file__, module.__loader__ = "built_with.py", loader  # type: ignore[assignment]
    before = code_field(module)
    assert code_field(module) == before
    loader.source = b"x = 2"
    assert code_field(module) != before
    assert code_field(fingerprint) != before


def test_the_system_has_a_name_and_an_architecture() -> None:
    assert all(system_fields().values())
    assert set(system_fields()) == {"os", "machine"}
