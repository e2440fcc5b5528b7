"""The table of TensorRT, GPU and precision; the names of GPUs; what a portable plan covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import UsageError
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX
from alexnet_deploy.runtime.tensorrt.support import (
    GPUS,
    ROWS,
    RTX_TARGETS,
    capability_of,
    covers,
    describe,
    is_limit,
    require_capability,
    undocumented,
    why_unsupported,
)

WITHOUT_RTX = ("sm87", "sm90", "sm100", "sm103", "sm110")
VERSION = "1.7.1.116"


class TestRows:
    def test_each_has_a_source_and_stands_once(self) -> None:
        assert all(source for row in ROWS for source in row.source.split("; "))
        assert len({(row.library, row.capability) for row in ROWS}) == len(ROWS)

    @pytest.mark.parametrize("capability", WITHOUT_RTX)
    def test_rtx_sends_to_the_package_that_builds(self, capability: str) -> None:
        reason = why_unsupported(RTX, VERSION, capability)
        assert reason is not None
        assert reason.startswith(f"TensorRT-RTX does not support {capability}; ")
        assert "alexnet-deploy[gpu]" in reason
        # What is advised is listed for it.
        assert any((row.library, row.capability) == (FULL, capability) for row in ROWS)

    @pytest.mark.parametrize(
        ("library", "version", "capability", "says"),
        [
            (RTX, VERSION, "sm89", None),
            (RTX, "1.4", "sm121", "TensorRT-RTX supports sm121 from 1.5 on, not in 1.4; update it"),
            (RTX, VERSION, "sm130", None),  # beyond the table: the library decides
            (FULL, "10.7.0.23", "sm120", "TensorRT supports sm120 from 10.8 on, not in 10.7.0.23; update it"),
            (FULL, "10.16.1.11", "sm120", None),
            (FULL, "a build of our own", "sm120", None),  # no version, so nothing is ruled out by it
            (FULL, "", "sm87", None),
            (RTX, "1", "sm121", None),
            (FULL, "10.3.0", "sm87", None),
            (FULL, "11.0.0.1", "sm87", "TensorRT supports sm87 from 11.4 on, not in 11.0.0.1; update it"),
            (FULL, "11.3.1.6", "sm110", "TensorRT supports sm110 from 11.4 on, not in 11.3.1.6; update it"),
            (FULL, "10.7.0", "sm110", "TensorRT supports sm110 from 10.13 on, not in 10.7.0; update it"),
            (FULL, "11.4.1.6", "sm110", None),
            (FULL, "11.4.0.106", "sm90", None),
            (
                FULL,
                "11.4.0.106",
                "sm70",
                "TensorRT 11.4.0.106 does not support sm70; run the ONNX with `runtime` onnxruntime",
            ),
        ],
    )
    def test_versions(self, library: str, version: str, capability: str, says: str | None) -> None:
        assert why_unsupported(library, version, capability) == says

    @pytest.mark.parametrize(
        ("capability", "precision", "limited"),
        [
            ("sm89", "int8", False),  # no document lists it, and the builder accepts it
            ("sm89", "int8+fp16", False),
            ("sm89", "fp8+fp16", False),
            ("sm86", "fp8", True),
            ("sm75", "fp32", True),
            ("sm75", "fp16", False),
            ("sm75", "int8+fp16", True),
            ("sm90", "fp16", True),
            ("sm130", "fp16", True),
        ],
    )
    def test_limits_of_rtx(self, capability: str, precision: str, limited: bool) -> None:
        assert is_limit(RTX, VERSION, capability, precision) is limited

    def test_int8_activations_are_said_to_be_undocumented_wherever_rtx_is_described(self) -> None:
        for capability in RTX_TARGETS:
            assert describe(RTX, VERSION, capability).endswith("int8 activations: not documented")
        assert describe(FULL, "11.4.0.106", "sm90") == "sm90: fp32, fp16, int8, fp8"

    def test_a_newer_gpu_is_left_to_the_full_tensorrt_alone(self) -> None:
        assert describe(FULL, "11.4.0.106", "sm130").endswith("the library decides")
        assert describe(RTX, VERSION, "sm130") == (
            f"TensorRT-RTX {VERSION} does not build for sm130; on a machine with that GPU, pip install "
            "'alexnet-deploy[gpu]' builds for it"
        )

    def test_notes(self) -> None:
        assert undocumented([(FULL, ["int8"]), (RTX, ["fp16", "int8-weights"])]) == ()
        (note,) = undocumented([(RTX, ["fp16"]), (RTX, ["fp16", "int8"])])
        assert "no GPU has confirmed" in note


class TestCovers:
    @pytest.mark.parametrize("capability", WITHOUT_RTX)
    def test_a_portable_plan_of_rtx_is_only_for_what_rtx_supports(self, capability: str) -> None:
        assert not covers(RTX, VERSION, "sm80+", capability)

    @pytest.mark.parametrize(
        ("library", "target", "capability", "runs"),
        [
            (RTX, "sm80+", "sm80", True),
            (RTX, "sm80+", "sm121", True),
            (RTX, "sm80+", "sm75", False),
            (RTX, "sm89+", "sm86", False),
            (FULL, "sm80+", "sm90", True),
            (FULL, "sm80+", "sm87", False),  # a Jetson
            (FULL, "sm90", "sm90", True),
            (FULL, "sm90", "sm100", False),
        ],
    )
    def test_targets(self, library: str, target: str, capability: str, runs: bool) -> None:
        assert covers(library, VERSION if library == RTX else "11.4.0.106", target, capability) is runs


class TestNames:
    @pytest.mark.parametrize(
        ("name", "capability"),
        [
            ("t4", "sm75"),
            ("A100", "sm80"),
            ("a10", "sm86"),
            ("rtx3090", "sm86"),
            ("orin", "sm87"),
            ("l4", "sm89"),
            ("l40s", "sm89"),
            ("rtx4090", "sm89"),
            ("NVIDIA GeForce RTX 4090", "sm89"),
            ("Tesla T4", "sm75"),
            ("h100", "sm90"),
            ("h200", "sm90"),
            ("b200", "sm100"),
            ("thor", "sm110"),
            ("RTX-5090", "sm120"),
            ("dgx_spark", "sm121"),
            ("sm89", "sm89"),
            ("SM120", "sm120"),
            ("gtx1660", "sm75"),
            ("rtx4070super", "sm89"),
            # as nvidia-smi prints them
            ("NVIDIA H100 80GB HBM3", "sm90"),
            ("NVIDIA H100 PCIe", "sm90"),
            ("NVIDIA GH200 480GB", "sm90"),
            ("NVIDIA A100-SXM4-80GB", "sm80"),
            ("NVIDIA GeForce RTX 4070 Ti SUPER", "sm89"),
            ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", "sm86"),
            ("NVIDIA RTX 6000 Ada Generation", "sm89"),
            ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "sm120"),
            ("Orin (nvgpu)", "sm87"),
        ],
    )
    def test_what_people_call_them(self, name: str, capability: str) -> None:
        assert capability_of(name) == capability

    def test_each_name_means_a_gpu_of_the_table(self) -> None:
        assert set(GPUS.values()) <= {row.capability for row in ROWS}
        assert all(capability_of(name) == capability for name, capability in GPUS.items())

    def test_an_unknown_name_is_told_with_similar_ones(self) -> None:
        with pytest.raises(UsageError, match=r"`targets` rtx4091: unknown; did you mean .*rtx4090.*\? choose from all"):
            require_capability("rtx4091", ["all"])

    @given(st.text(max_size=30))
    def test_any_text_is_a_gpu_or_refused(self, text: str) -> None:
        found = capability_of(text)
        assert found is None or (found.startswith("sm") and found[2:].isdecimal())
