"""Support of bfloat16, from what the system says about its processor."""

import pytest
import torch

from dhp_sr.utils import devices

CPU = torch.device("cpu")
INTEL = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Let the processor be what a text in the form of /proc/cpuinfo says."""

    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(devices, "CPUINFO", path)

    return write


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        (INTEL, True),
        (INTEL.replace("amx_bf16 amx_tile", "avx512_bf16"), True),
        (INTEL.replace("amx_bf16 amx_tile", "avx512_vnni"), False),
        ("processor : 0\nFeatures : bf16\n", False),
        ("", False),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(cpuinfo, text, fast):
    cpuinfo(text)
    assert devices.has_fast_bf16(CPU) == fast
    assert devices.resolve_amp("auto", CPU) == ("bf16" if fast else "none")
    assert devices.resolve_amp("none", CPU) == "none"
    assert devices.resolve_amp("bf16", CPU) == "bf16"


def test_without_cpuinfo_nothing_is_fast(tmp_path, monkeypatch, cpuinfo):
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "none")
    assert not devices.has_fast_bf16(CPU)


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_graphics_card_is_fast_from_ampere_on(monkeypatch, cpuinfo, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.has_fast_bf16(torch.device("cuda", 0)) == fast


def test_the_processor_is_named(cpuinfo):
    cpuinfo(INTEL)
    assert devices.device_name(CPU).startswith("Xeon (")


def test_processors_of_arm_are_told_apart(cpuinfo):
    """They state numbers instead of a name; measured times are kept by device."""
    names = []
    for part in ("0xd0b", "0xd40"):
        cpuinfo(f"processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n")
        names.append(devices.device_name(CPU))
    assert names[0] != names[1] and "0x41 0xd0b" in names[0]
