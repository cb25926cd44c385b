"""libtpu is not asked for TPUs where there are none."""

import importlib.metadata
import importlib.util

import pytest

from prompt_jax.hosts import chipless


@pytest.mark.parametrize(
    ("environ", "vendor", "libtpu", "plugins", "set_to"),
    [
        ({}, "0x8086", True, [], "cpu"),
        ({}, "0x8086", False, [], None),
        ({}, "0x1ae0", True, [], None),
        ({}, "0x8086", True, ["xla_cuda12"], None),
        ({"JAX_PLATFORMS": "tpu"}, "0x8086", True, [], "tpu"),
        ({"JAX_FORCE_TPU_INIT": "1"}, "0x8086", True, [], None),
    ],
    ids=["alone", "no libtpu", "a TPU", "a GPU's plugin", "told", "forced"],
)
def test_only_where_nothing_but_the_cpu_can_be(
    environ, vendor, libtpu, plugins, set_to, tmp_path, monkeypatch
):
    device = tmp_path / "0000:00:04.0"
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: libtpu or None)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    chipless.be_quiet(environ, tmp_path)
    assert environ.get("JAX_PLATFORMS") == set_to


@pytest.mark.parametrize(
    ("vendor", "file", "there"),
    [
        ("0x1ae0", "vfio/0", True),
        ("0x1ae0", "accel0", True),
        ("0x1ae0", "null", False),  # a network card of Google's cloud
        ("0x10de", "vfio/0", False),
    ],
)
def test_a_tpu_is_a_device_of_google_with_a_file(vendor, file, there, tmp_path):
    for path, text in ((tmp_path / "0000:00:04.0" / "vendor", vendor), (tmp_path / file, "")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert chipless.has_tpu(tmp_path, tmp_path) == there
