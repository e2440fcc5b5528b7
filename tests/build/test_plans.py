"""Real builds of small graphs with the installed TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import callbacks
from alexnet_deploy.build import plans as build
from alexnet_deploy.build.plans import Build, build_plans
from alexnet_deploy.build.proof import (
    Asked,
    EngineLayer,
    achieved_precisions,
    explain,
    fallbacks,
    layers_from_inspector,
    layers_from_log,
)
from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError, InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.runtime import tensorrt_library
from alexnet_deploy.runtime.tensorrt_library import RTX, TensorRT
from tests.helpers.onnx_models import PRECISIONS, Graph, tiny_classifier

pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")

BATCH = BatchProfile(1, 2, 4)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None, TensorRT | None], None]:
    """Make this a machine with TensorRT-RTX and no GPU; call it for a GPU, or for a full TensorRT beside."""

    def is_(capability: str | None, full: TensorRT | None = None, rtx: bool = True) -> None:
        libraries = ({"tensorrt": full} if full else {}) | ({RTX: tensorrt_library.load(RTX)} if rtx else {})
        monkeypatch.setattr(build, "current_capability", lambda: capability)
        monkeypatch.setattr(build, "installed", lambda: libraries)

    is_(None)
    return is_


def built(onnx_path: Path, *targets: str, **options: Any) -> Build:
    return build_plans(onnx_path, onnx_path.parent / "plans", batch=BATCH, targets=targets, **options)


def left_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def of(layers: tuple[LayerPrecision, ...]) -> list[tuple[str, str, str]]:
    return [(layer.op, layer.asked, layer.got) for layer in layers]


class TestPlans:
    def test_a_target_gives_a_plan_and_its_record(self, tmp_path: Path) -> None:
        (plan,) = (made.plan for made in built(tiny_classifier(tmp_path / "m.onnx"), "sm89").plans)
        assert (plan.file, plan.builder, plan.target) == ("sm89.plan", "tensorrt_rtx", "sm89")
        assert plan.version == tensorrt_library.load(RTX).version
        assert left_in(tmp_path / "plans") == {"sm89.plan"}
        # A plan of TensorRT-RTX begins with this tag.
        assert (tmp_path / "plans/sm89.plan").read_bytes()[:4] == b"vtrt"

    @pytest.mark.parametrize(("precision", "target"), [("fp16", "sm80+"), ("fp8", "sm89+")])
    def test_without_target_and_gpu_one_portable_plan(self, precision: str, target: str, tmp_path: Path) -> None:
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", precision)).plans
        assert (made.plan.file, made.plan.target) == ("portable.plan", target)

    def test_without_target_the_gpu_at_hand(
        self, here: Callable[[str | None, TensorRT | None], None], tmp_path: Path
    ) -> None:
        here("sm86", None)
        (made,) = built(tiny_classifier(tmp_path / "m.onnx")).plans
        assert made.plan.target == "sm86"

    def test_all_stands_for_every_target_that_can_run_the_model(self, tmp_path: Path) -> None:
        result = built(tiny_classifier(tmp_path / "m.onnx", "fp8"), "all")
        assert [made.plan.target for made in result.plans] == ["sm89", "sm120", "sm121"]
        assert [reason.partition("--target ")[2][:18] for reason in result.passed_over] == [
            "sm75 has no FP8; u",
            "sm80 has no FP8; u",
            "sm86 has no FP8; u",
        ]
        assert left_in(tmp_path / "plans") == {"sm89.plan", "sm120.plan", "sm121.plan"}

    def test_turing_has_no_fp32_matrix_product(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"no plan for sm75: Turing \(sm75\) has no FP32 matrix multiply.*add --fp16"
        ):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm75")

    def test_a_failed_target_does_not_colour_the_next(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx")
        for _ in range(2):  # the first would carry whatever a test before this one left
            built(model, "sm80")
        alone = (tmp_path / "plans/sm80.plan").stat().st_size
        result = built(model, "all")
        assert "sm75" in result.passed_over[0]
        # TensorRT-RTX itself carries sm75's padding over into sm80's plan, which grows by it.
        assert (tmp_path / "plans/sm80.plan").stat().st_size == alone

    def test_weights_in_a_file_beside_the_onnx(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        assert len(built(model, "sm89").plans) == 1
        (tmp_path / "m.data").unlink()
        with pytest.raises(InputError, match=r"m\.data"):
            built(model, "sm89")

    def test_errors_call_the_model_by_the_name_that_its_user_knows(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"^photos\.onnx: no plan for sm75"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm75", source="photos.onnx")

    def test_a_fixed_batch(self, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx", batch=4)
        assert build_plans(model, tmp_path, batch=BatchProfile(4, 4, 4), targets=["sm89"]).plans
        with pytest.raises(UsageError, match="batches of exactly 4; use --min-batch 4"):
            built(model, "sm89")


class TestAchieved:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_every_layer_gets_what_the_onnx_asks(self, precision: str, tmp_path: Path) -> None:
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", precision), "sm89").plans
        asked = precision.partition("+")[0]
        assert of(made.achieved) == [("Conv", asked, asked)] * 3 + [("Gemm", asked, asked)] * 2
        assert not fallbacks(made.achieved)
        assert len({layer.engine_layer for layer in made.achieved}) == 5

    def test_fp8_has_no_kernel_for_the_first_convolution_of_alexnet(self, tmp_path: Path) -> None:
        g = Graph()
        x = g.node("Conv", g.quantised("pixels", "fp8"), g.quantised(g.weight(64, 3, 11, 11), "fp8"), strides=[4, 4])
        x = g.node("Conv", g.quantised(x, "fp8"), g.quantised(g.weight(32, 64, 3, 3), "fp8"))
        path = g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 3, 48, 48])
        (made,) = built(path, "sm89").plans
        assert of(made.achieved) == [("Conv", "fp8", "fp32"), ("Conv", "fp8", "fp8")]
        (layer,) = fallbacks(made.achieved)
        assert explain(layer) == (
            f"{layer.node} (Conv) asked for fp8, got fp32: "
            "TensorRT has no fp8 kernel for this Conv and converts its operands to fp32 first"
        )

    def test_turing_computes_int8_convolutions_in_fp16(self, tmp_path: Path) -> None:
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", "int8+fp16"), "sm75").plans
        assert of(made.achieved) == [("Conv", "int8", "fp16")] * 3 + [("Gemm", "int8", "int8")] * 2

    def test_a_residual_in_float_does_not_hide_an_int8_product(self, tmp_path: Path) -> None:
        g = Graph()
        shortcut = g.quantised(g.node("Relu", "pixels"))
        x = g.node("Conv", g.quantised(g.node("Relu", shortcut)), g.quantised(g.weight(32, 32, 1, 1)), g.weight(32))
        path = g.save(
            g.node("Flatten", g.node("Relu", g.node("Add", x, shortcut))), tmp_path / "m.onnx", ["N", 32, 8, 8]
        )
        (made,) = built(path, "sm89").plans
        assert of(made.achieved) == [("Conv", "int8", "int8")]

    def test_forms_of_quantisation_that_are_not_int8_products(self, tmp_path: Path) -> None:
        g = Graph()
        x = g.node("MatMul", "pixels", g.quantised(g.weight(64, 64)), name="weights-only")
        x = g.node("MatMul", g.quantised(x), g.weight(64, 64), name="activations-only")
        x = g.node(
            "MatMul", g.quantised(x), g.node("Transpose", g.quantised(g.weight(48, 64)), perm=[1, 0]), name="both"
        )
        x = g.node(
            "Reshape", x, g.constant(onnx.numpy_helper.to_array(onnx.helper.make_tensor("s", 7, [4], [-1, 3, 4, 4])))
        )
        x = g.node("ConvTranspose", g.quantised(x), g.quantised(g.weight(3, 16, 2, 2)), strides=[2, 2], name="")
        (made,) = built(g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 64]), "sm89").plans
        assert [(layer.node, layer.asked, layer.got) for layer in made.achieved] == [
            ("weights-only", "fp32", "fp32"),
            ("activations-only", "fp32", "fp32"),
            ("both", "int8", "int8"),
            ("node_of_convtranspose_17_out", "int8", "fp32"),
        ]

    def test_operands_that_are_both_computed(self, tmp_path: Path) -> None:
        g = Graph()
        turned = g.node("Transpose", "pixels", perm=[0, 2, 1])
        x = g.node("MatMul", g.quantised("pixels"), g.quantised(turned))
        x = g.node("MatMul", g.node("Softmax", x), "pixels")
        (made,) = built(g.save(g.node("Flatten", x), tmp_path / "m.onnx", ["N", 16, 64]), "sm89").plans
        assert of(made.achieved) == [("MatMul", "int8", "int8"), ("MatMul", "fp32", "fp32")]

    def test_a_weight_that_reaches_the_product_as_float_counts_as_float(self) -> None:
        converted = EngineLayer("fc", "gemm", frozenset({"fc"}), ("fp8", "fp32"), (("fp8", 1),))
        assert of(achieved_precisions([Asked("fc", "Gemm", "fp8", 640)], [converted])) == [("Gemm", "fp8", "fp32")]

    def test_a_node_that_the_report_does_not_name(self) -> None:
        (layer,) = achieved_precisions([Asked("conv", "Conv", "int8", 27)], [])
        assert layer == LayerPrecision("conv", "Conv", "int8", "unknown", "")
        assert "the builder's report does not name it" in explain(layer)

    def test_no_report_is_no_proof(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(build, "layers_from_log", lambda report: layers_from_log("Layers:\nof another form"))
        with pytest.raises(ProofError, match="does not report its layers"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89")
        assert left_in(tmp_path / "plans") == set()

    @pytest.mark.parametrize(
        ("allowed", "left"),
        [([], 2), (["/c.0/Conv"], 1), (["/c.0/.*"], 1), (["c.0"], 2), ([".*"], 0), (["/c.0/Conv", "fc(1)"], 0)],
    )
    def test_a_fallback_is_allowed_by_name_or_pattern(self, allowed: list[str], left: int) -> None:
        layers = [
            LayerPrecision("/c.0/Conv", "Conv", "int8", "fp16", "a"),
            LayerPrecision("fc(1)", "Gemm", "int8", "fp16", "b"),
            LayerPrecision("fine", "Gemm", "int8", "int8", "c"),
        ]
        assert len(fallbacks(layers, allowed)) == left

    def test_a_bad_pattern(self) -> None:
        with pytest.raises(UsageError, match=r"--allow-fallback conv\[: no regular expression"):
            fallbacks([], ["conv["])


TENSORRT_10 = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {
            "Name": "x",
            "Dimensions": [8, 3, 8, 8],
            "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
        }
    ],
    "Outputs": [{"Name": "y", "Dimensions": [8, 16, 8, 8], "Format/Datatype": "Row major linear FP32"}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 432},
    "Bias": {"Type": "Float", "Count": 16},
    "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: relu1 | block (function)]",
}
TENSORRT_11 = {
    "Name": "__myl_FcAdd_myl0_3",
    "LayerType": "kgen",
    "Inputs": [{"Name": "x", "Dimensions": [8, 64], "Datatype": "Half", "Format": "Row major linear format"}],
    "Constants": [
        {"Name": "b", "Dimensions": [1, 10], "Datatype": "Half", "Format": "Row major linear format"},
        {"Name": "w", "Dimensions": [64, 10], "Datatype": "Half", "Format": "Row major linear format"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [8, 10], "Datatype": "Float", "Format": "Row major linear format"}],
    "Metadata": "[ONNX Layer: fc]",
}


class TestFullTensorRT:
    """It cannot run here: TensorRT-RTX stands in for its builder, and canned JSON for its inspector."""

    def test_the_inspectors_json(self) -> None:
        layers = layers_from_inspector(json.dumps({"Layers": [TENSORRT_10, TENSORRT_11, "a name alone"]}))
        assert layers == [
            EngineLayer("conv1 + relu1", "CaskConvolution", frozenset({"conv1", "relu1"}), ("int8",), (("int8", 432),)),
            EngineLayer("__myl_FcAdd_myl0_3", "kgen", frozenset({"fc"}), ("fp16",), (("fp16", 10), ("fp16", 640))),
        ]
        asked = [Asked("conv1", "Conv", "int8", 432), Asked("fc", "Gemm", "fp16", 640)]
        assert of(achieved_precisions(asked, layers)) == [("Conv", "int8", "int8"), ("Gemm", "fp16", "fp16")]

    @staticmethod
    def stand_in(layers: list[dict[str, Any]] | None) -> TensorRT:
        rtx = tensorrt_library.load(RTX)
        report = json.dumps({"Layers": layers})
        inspector = SimpleNamespace(get_engine_information=lambda form: report)
        engine = None if layers is None else SimpleNamespace(create_engine_inspector=lambda: inspector)

        class Api:
            Runtime = staticmethod(lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine))

            def __getattr__(self, name: str) -> Any:
                return getattr(rtx.api, name)

        return TensorRT("tensorrt", "11.4.0.106", Api(), rtx.logger, rtx.messages)

    def test_it_is_preferred_for_the_gpu_at_hand(
        self, here: Callable[[str | None, TensorRT | None], None], tmp_path: Path
    ) -> None:
        here("sm90", self.stand_in([TENSORRT_11 | {"Metadata": "[ONNX Layer: gemm_14]"}]))
        (made,) = built(tiny_classifier(tmp_path / "m.onnx", "fp16"), "current").plans
        assert (made.plan.builder, made.plan.version, made.plan.target) == ("tensorrt", "11.4.0.106", "sm90")
        assert {layer.node: layer.got for layer in made.achieved if layer.got != "unknown"} == {"gemm_14": "fp16"}

    def test_ahead_of_time_is_for_rtx(self, here: Callable[..., None], tmp_path: Path) -> None:
        here("sm90", self.stand_in([]))
        assert build.choose(["sm89"])[0].name == RTX
        assert build.choose(["sm90"])[0].name == "tensorrt"
        here("sm86", self.stand_in([]))
        with pytest.raises(UsageError, match=r"--target sm90: TensorRT-RTX .* builds for sm75"):
            build.choose(["sm89", "sm90"])
        here("sm90")
        with pytest.raises(
            UnavailableError, match=r"--target sm90: TensorRT-RTX .* pip install 'alexnet-deploy\[gpu\]'"
        ):
            build.choose()

    def test_alone_it_builds_for_no_other_gpu(self, here: Callable[..., None], tmp_path: Path) -> None:
        here("sm90", self.stand_in([]), rtx=False)
        with pytest.raises(UnavailableError, match=r"sm89: TensorRT 11.* builds only for the GPU it runs on \(sm90\)"):
            build.choose(["sm89"])
        here(None, self.stand_in([]), rtx=False)
        with pytest.raises(UnavailableError, match=r"portable: .*the GPU it runs on \(none here\); pip install"):
            build.choose()

    def test_a_plan_that_it_cannot_load_again(self, here: Callable[..., None], tmp_path: Path) -> None:
        here("sm90", self.stand_in(None))
        with pytest.raises(UnavailableError, match="cannot load what it built"):
            built(tiny_classifier(tmp_path / "m.onnx"), "current")
        assert left_in(tmp_path / "plans") == set()


def garbage(path: Path) -> Path:
    path.write_bytes(b"\x08 no onnx" * 50)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def two_outputs(path: Path) -> Path:
    model = onnx.load(tiny_classifier(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info("gemm_14_out", onnx.TensorProto.FLOAT, ["N", 10]))
    onnx.save(model, path)
    return path


def unknown_operator(path: Path) -> Path:
    model = onnx.load(tiny_classifier(path))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Invent", "my.own"
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    onnx.save(model, path)
    return path


def mixed_types(path: Path) -> Path:
    g = Graph(fp16=True)
    g.save(g.node("Relu", g.node("MatMul", "pixels", g.weight(8, 8))), path, ["N", 8])
    return path


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "targets", "kind", "says"),
        [
            (garbage, ["sm89"], InputError, "m.onnx: is not"),
            (empty, ["sm89"], InputError, "m.onnx: is not an ONNX model"),
            (lambda path: path, ["sm89"], InputError, "m.onnx: no such ONNX file"),
            (two_outputs, ["sm89"], InputError, "1 inputs and 2 outputs; export it with"),
            (unknown_operator, ["sm89"], InputError, r"node logits \(Invent\): TensorRT-RTX \S+ has no such operator;"),
            (mixed_types, ["sm89"], InputError, "m.onnx: "),
            (lambda path: tiny_classifier(path, side="S"), ["sm89"], InputError, "only the batch may vary"),
            (
                tiny_classifier,
                ["sm89", "rtx4090"],
                UsageError,
                "--target rtx4090: unknown; choose from sm75, .*current",
            ),
            (tiny_classifier, ["sm90"], UsageError, r"--target sm90: TensorRT-RTX \S+ builds for sm75, .*\[gpu\]"),
            (
                tiny_classifier,
                ["current"],
                UnavailableError,
                "--target current: no usable CUDA GPU here; name its kind",
            ),
            (lambda path: tiny_classifier(path, "fp8"), ["sm86"], InputError, "--target sm86 has no FP8; use sm89 or"),
        ],
    )
    def test_one_line_and_nothing_on_disk(
        self, model: Callable[[Path], Path], targets: list[str], kind: type[DeployError], says: str, tmp_path: Path
    ) -> None:
        path = model(tmp_path / "m.onnx")
        with pytest.raises(kind, match=says) as caught:
            built(path, *targets)
        assert "\n" not in str(caught.value)
        assert "_src" not in str(caught.value), "TensorRT's source files are nobody's business"
        assert left_in(tmp_path / "plans") == set()

    def test_no_tensorrt(self, here: Callable[..., None], tmp_path: Path) -> None:
        here(None, None, rtx=False)
        with pytest.raises(UnavailableError, match=r"no TensorRT is installed: pip install 'alexnet-deploy\[rtx\]'"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89")

    def test_a_later_target_that_fails_takes_the_earlier_with_it(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no plan for sm75"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89", "sm75")
        assert left_in(tmp_path / "plans") == set()

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Full:
            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        def writer(api: Any, stream: BinaryIO, watch: callbacks.Watch) -> Any:
            return callbacks.writer_of(api, Full(), watch)  # type: ignore[arg-type]  # all that a writer uses

        monkeypatch.setattr(build, "writer_of", writer)
        with pytest.raises(UnavailableError, match=r"sm89\.plan: no room left on the disk"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89")
        assert left_in(tmp_path / "plans") == set()


class TestWatching:
    def test_progress_never_falls_and_ends_full(self, tmp_path: Path) -> None:
        seen: list[tuple[str, int, int]] = []
        built(tiny_classifier(tmp_path / "m.onnx"), "sm89", "sm120", on_progress=lambda *step: seen.append(step))
        for target in ("sm89", "sm120"):
            steps = [done for name, done, total in seen if name == target and total == build.PROGRESS_STEPS]
            assert steps == sorted(steps)
            assert len(set(steps)) > 20
            assert steps[-1] == build.PROGRESS_STEPS

    @pytest.mark.parametrize("at", [1, 30])
    def test_ctrl_c_cancels_and_leaves_what_was(self, at: int, tmp_path: Path) -> None:
        model = tiny_classifier(tmp_path / "m.onnx")
        (tmp_path / "plans").mkdir()
        (tmp_path / "plans/sm120.plan").write_bytes(b"the old one")
        before = signal.getsignal(signal.SIGINT)
        steps = 0

        def press(target: str, done: int, total: int) -> None:
            nonlocal steps
            steps += target == "sm120"
            if steps == at:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            built(model, "sm89", "sm120", on_progress=press)
        assert steps == at, "the builder went on"
        assert left_in(tmp_path / "plans") == {"sm120.plan"}
        assert (tmp_path / "plans/sm120.plan").read_bytes() == b"the old one"
        assert signal.getsignal(signal.SIGINT) is before

    def test_what_the_progress_bar_raises_comes_out(self, tmp_path: Path) -> None:
        def broken(*_: object) -> None:
            raise BrokenPipeError("the terminal is gone")

        with pytest.raises(BrokenPipeError, match="terminal"):
            built(tiny_classifier(tmp_path / "m.onnx"), "sm89", on_progress=broken)
        assert left_in(tmp_path / "plans") == set()

    @given(
        st.recursive(
            st.integers(1, 5).map(lambda steps: [None] * steps),
            lambda inner: st.lists(st.none() | inner, min_size=1, max_size=5),
            max_leaves=20,
        )
    )
    def test_any_nesting_of_phases_gives_a_rising_share(self, plan: list[Any]) -> None:
        shares: list[float] = []
        watch = callbacks.Watch(shares.append, callbacks.Interrupt())

        def run(steps: list[Any], name: str, parent: str | None) -> None:
            watch.start(name, parent, len(steps))
            for index, inner in enumerate(steps):
                if inner is not None:
                    run(inner, f"{name}.{index}", name)
                assert watch.step(name, index)
            watch.finish(name)

        run(plan, "root", None)
        assert shares == sorted(shares)
        assert shares[0] > 0
        assert shares[-1] == 1.0


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "no reason given"),
        (
            [
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot compile "
                "operation 'fc' for Turing (SM75): FP32 GEMM is not supported. In compile at /_src/a.cpp:2012)"
            ],
            "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported",
        ),
        (
            [
                "Invalid Node - mul\nITensor::getDimensions: Error Code 4: API Usage Error (mul: ElementWiseOperation "
                "PROD must have same input types. In validateTypes at /_src/elementWiseNode.cpp:40)\n"
                "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:1)"
            ],
            "mul: ElementWiseOperation PROD must have same input types",
        ),
        (
            [
                "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at /_src/c.cpp:25 "
                "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
            ],
            "cudaError 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
    ],
)
def test_tensorrts_messages_become_one_line(messages: list[str], line: str) -> None:
    assert tensorrt_library.one_line(messages) == line
