# The image of `alexnet-deploy serve`, and as target `triton` one of Triton for repositories with --preprocess.
#
#   docker build -t alexnet-deploy .
#   docker build -t alexnet-deploy --build-arg EXTRAS=gpu,serve --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 .
#   docker build -t alexnet-deploy-triton --target triton .
#
# docs/triton.md has the commands that run them. The image has no engine: mount the store at /srv/engines.

ARG BASE=python:3.11-slim-bookworm
ARG TRITON=nvcr.io/nvidia/tritonserver:25.10-py3


# Triton's own Python, with what decoding imports. Its NumPy stays as it is.
FROM ${TRITON} AS triton
COPY constraints.txt /tmp/constraints.txt
# This Python belongs to the image, and nothing else installs into it.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --no-deps -c /tmp/constraints.txt msgspec pillow \
 && rm /tmp/constraints.txt
USER 1000:1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models"]


# NVIDIA's images have no Python; that of Ubuntu 24.04 (3.12) will do.
FROM ${BASE} AS base
# hadolint ignore=DL3008
RUN if ! command -v python3; then \
      apt-get update \
   && apt-get install --yes --no-install-recommends python3 python3-venv \
   && rm -rf /var/lib/apt/lists/*; \
    fi


FROM base AS build
ARG EXTRAS=cpu,serve
WORKDIR /source
COPY . .
RUN python3 -m venv /opt/alexnet-deploy \
 && /opt/alexnet-deploy/bin/python -m pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"


FROM base
COPY --from=build /opt/alexnet-deploy /opt/alexnet-deploy
# ALEXNET_DEPLOY_CACHE: what a check of a runtime found is kept here; nothing else is written.
ENV PATH=/opt/alexnet-deploy/bin:$PATH \
    ALEXNET_DEPLOY_CACHE=/tmp/alexnet-deploy \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
USER 10001:10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["alexnet-deploy"]
CMD ["serve", "--host", "0.0.0.0", "--grpc-port", "8001", "--api-key-file", "/run/secrets/api_key"]
