# `make demo` shows that it works, `make test` proves it; `make` alone lists everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP_INSTALL_ALONE := -m pip install --quiet --disable-pip-version-check
PIP_INSTALL := $(PIP_INSTALL_ALONE) -c constraints.txt
CHECKPOINT := alexnet_deploy/data/alexnet.safetensors
BENCH := benchmarks/.cache
TRITON := $(BENCH)/triton
SERVING := $(BENCH)/serving
BENCH_PYTHON := $(BENCH)/venv/bin/python
GPU_VENV := $(BENCH)/gpu/venv
BENCH_ROUNDS := $(if $(ROUNDS),--rounds $(ROUNDS))

# torch from PyPI is a CUDA build on Linux: 2.7 GB with its libraries. Without an NVIDIA GPU the CPU build does the same
# in 0.2 GB; PyTorch publishes it on an index of its own. Where that index cannot be reached, PyPI's build is taken.
GPU := $(wildcard /dev/nvidiactl)$(shell command -v nvidia-smi)
TORCH_INDEX ?= $(if $(GPU),,https://download.pytorch.org/whl/cpu)
define INSTALL_TORCH
@if [ -n '$(TORCH_INDEX)' ]; then echo 'torch: CPU build from $(TORCH_INDEX)'; \
  $(1) $(PIP_INSTALL) --no-deps --retries 0 --timeout 10 --index-url '$(TORCH_INDEX)' torch 2>/dev/null || \
  echo 'torch: not available there, so from PyPI: on Linux a CUDA build, 2.7 GB with its libraries'; fi
endef

.PHONY: help demo test test-slow test-triton test-gpu bench-gpu fuzz check docs bench bench-serving bench-photos clean protocol

help:
	@echo "make demo   install into .venv, then export, build FP16 and INT8 engines, classify the sample photos"
	@echo "make test   run the test suite; make test-slow runs the rest, some minutes"
	@echo "make test-triton  package engines for Triton and call the real server"
	@echo "make test-gpu  on a machine with an NVIDIA GPU: all tests that need it; make bench-gpu measures it (docs/gpu.md)"
	@echo "make fuzz   mutate files of every kind: N=100000; KIND=images/jpeg SEED=123 runs one; KEEP=folder keeps the faults"
	@echo "make check  formatting, lint, import rules, types"
	@echo "make docs   build the site of docs/ into build/site, to be opened as files; a wrong link ends it"
	@echo "make bench  compare with peers on this machine (needs ALEXNET_DEPLOY_PHOTOS, a folder of photos)"
	@echo "make bench-serving  the same for serve: LitServe, BentoML, Triton"
	@echo "Without an NVIDIA GPU they install the CPU build of torch; TORCH_INDEX= takes PyPI's, TORCH_INDEX=URL another"

demo: engines/alexnet-fp16/bundle.json engines/alexnet-int8/bundle.json
	$(BIN)/alexnet-deploy engines
	$(BIN)/alexnet-deploy infer samples --engine alexnet-int8 --top-k 3
	$(BIN)/alexnet-deploy profile alexnet-fp16 alexnet-int8

# One worker per core, at most four: each loads torch and all runtimes. All tests of a file run in one worker, so a
# fixture of a file is made once.
test: .venv/.dev
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: .venv/.ray
	$(BIN)/python -m pytest -m slow

.venv/.ray: .venv/.dev
	$(BIN)/python $(PIP_INSTALL) -e '.[ray]'
	touch $@

# Some minutes, most of them for 0.3 GB of packages: the real tritonserver, which wants an environment of its own.
test-triton: .venv/.dev $(TRITON)/.venv
	ALEXNET_DEPLOY_TRITON=$(TRITON)/bin/python ALEXNET_DEPLOY_TRITON_PYTHON=$(CURDIR)/$(TRITON)/bin/python \
	  $(BIN)/python -m pytest tests/serving/triton tests/serving/test_tritonclient.py

$(TRITON)/.venv: tests/serving/triton/requirements.txt
	test -x $(TRITON)/bin/python || $(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python $(PIP_INSTALL_ALONE) -r $<
	touch $@

# The extra `gpu` excludes `cpu`, so it has an environment of its own; GPU_PYTHON=python3 takes one that is there. Only the
# files with such tests are imported: the others may need what it lacks.
test-gpu: $(if $(GPU_PYTHON),,$(GPU_VENV)/.done)
	$(or $(GPU_PYTHON),$(GPU_VENV)/bin/python) -m pytest -m gpu -rs $$(grep -rl --include='test_*.py' 'mark\.gpu' tests)

bench-gpu: $(if $(GPU_PYTHON),,$(GPU_VENV)/.done)
	$(or $(GPU_PYTHON),$(GPU_VENV)/bin/python) -m benchmarks.gpu $(if $(IMAGES),--images '$(IMAGES)') $(BENCH_ROUNDS)

$(GPU_VENV)/.done: pyproject.toml constraints.txt
	test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python $(PIP_INSTALL) -e '.[gpu,rtx,export,train,dev]'
	touch $@

# Counts what became of mutated files of every kind; exit code 1 on any fault.
fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz $(if $(KIND),--kind $(KIND)) $(if $(KEEP),--keep $(KEEP)) \
	  $(if $(SEED),--seed $(SEED) --inputs $(or $(N),1) --verbose,--inputs $(or $(N),10000))

# After a change of the protocol; the result is committed.
protocol: .venv/.dev
	cd alexnet_deploy/serving/protocol && ../../../$(BIN)/python -m grpc_tools.protoc -I. \
	  --descriptor_set_out=protocol.binpb open_inference.proto health.proto

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

docs: .venv/.dev
	$(BIN)/python -m documentation

# Some half an hour on two cores, once the peers are installed. ROUNDS=20 for narrower spreads.
bench: bench-photos $(BENCH)/engines/alexnet-fp32/bundle.json $(BENCH)/engines/alexnet-int8/bundle.json
	$(BENCH_PYTHON) -m benchmarks.engine_only $(BENCH_ROUNDS)
	$(BENCH_PYTHON) -m benchmarks.end_to_end '$(ALEXNET_DEPLOY_PHOTOS)' $(BENCH_ROUNDS)
	$(BENCH_PYTHON) -m benchmarks.end_to_end '$(ALEXNET_DEPLOY_PHOTOS)' --megapixels 12 --images 60 --times 1 --rounds 3 $(BENCH_ROUNDS)
	$(BENCH_PYTHON) -m benchmarks.scaling '$(ALEXNET_DEPLOY_PHOTOS)' $(BENCH_ROUNDS)
	$(BENCH_PYTHON) -m benchmarks.cold_start '$(ALEXNET_DEPLOY_PHOTOS)' $(BENCH_ROUNDS)
	$(BENCH_PYTHON) -m benchmarks.render

# Some fifteen minutes once the peers are installed, in two environments of their own (0.9 GB).
bench-serving: bench-photos .venv/.dev $(SERVING)/.venv $(TRITON)/.venv $(SERVING)/engines/alexnet-int8/bundle.json
	$(TRITON)/bin/python $(PIP_INSTALL_ALONE) -r benchmarks/serving/peers/requirements-triton.txt
	$(BIN)/python -m benchmarks.serving.measure '$(ALEXNET_DEPLOY_PHOTOS)' --store $(SERVING)/engines $(BENCH_ROUNDS)

$(SERVING)/engines/alexnet-int8/bundle.json: engines/alexnet.onnx
	$(BIN)/alexnet-deploy build-engine $< -o $(@D) --int8 --calibration-data '$(ALEXNET_DEPLOY_PHOTOS)' \
	  --calibration-images 128

# Without constraints.txt: BentoML pins another OpenTelemetry.
$(SERVING)/.venv: pyproject.toml benchmarks/serving/peers/requirements.txt
	test -x $(SERVING)/bin/python || $(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/python $(PIP_INSTALL_ALONE) -r benchmarks/serving/peers/requirements.txt -e '.[cpu,serve]'
	touch $@

bench-photos:
	@test -d '$(ALEXNET_DEPLOY_PHOTOS)' || { \
	  echo 'make bench needs photos: ALEXNET_DEPLOY_PHOTOS=folder make bench (a few hundred of real size)'; exit 2; }

clean:
	rm -rf .venv build $(BENCH) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache engines/*.onnx engines/*/

.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call INSTALL_TORCH,$(BIN)/python)
	$(BIN)/python $(PIP_INSTALL) -e '.[cpu,rtx,export]'
	touch $@

.venv/.dev: .venv/.demo
	$(BIN)/python $(PIP_INSTALL) -e '.[cpu,rtx,export,train,measure,dev]'
	touch $@

engines/alexnet.onnx: .venv/.demo $(CHECKPOINT)
	$(BIN)/alexnet-deploy export

engines/alexnet-fp16/bundle.json: engines/alexnet.onnx
	$(BIN)/alexnet-deploy build-engine --fp16

# A dozen photos show how it is done; calibrate a real engine on some 500 images of your own.
engines/alexnet-int8/bundle.json: engines/alexnet.onnx
	$(BIN)/alexnet-deploy build-engine --int8 --calibration-data samples --calibration-images 12

# An environment of its own: peers are no dependencies, and ours runs in the very same one.
$(BENCH)/.venv: pyproject.toml constraints.txt benchmarks/requirements-peers.txt
	test -x $(BENCH_PYTHON) || $(PYTHON) -m venv $(BENCH)/venv
	$(call INSTALL_TORCH,$(BENCH_PYTHON))
	$(BENCH_PYTHON) $(PIP_INSTALL) -e '.[cpu,export]' -r benchmarks/requirements-peers.txt
	$(BENCH_PYTHON) -m benchmarks.peers.mlperf_peer
	touch $@

$(BENCH)/alexnet.onnx: $(BENCH)/.venv $(CHECKPOINT)
	$(BENCH_PYTHON) -m alexnet_deploy export -o $@

$(BENCH)/engines/alexnet-fp32/bundle.json: $(BENCH)/alexnet.onnx
	$(BENCH_PYTHON) -m alexnet_deploy build-engine $< -o $(@D)

$(BENCH)/engines/alexnet-int8/bundle.json: $(BENCH)/alexnet.onnx
	$(BENCH_PYTHON) -m alexnet_deploy build-engine $< -o $(@D) --int8 --calibration-data '$(ALEXNET_DEPLOY_PHOTOS)' \
	  --calibration-images 128
