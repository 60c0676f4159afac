# The library, for a user without privileges.
#
#   docker build -t mtrl .                                                                    # CPU
#   docker build -t mtrl-cuda --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu24.04 .          # run with --gpus all
#   docker run --rm -v "$PWD/runs:/runs" mtrl train --suite mt3 --run-dir /runs/mt3
#
# torch comes as pip finds it, which is a build for CUDA of 3 GB. `--build-arg TORCH_INDEX=URL` adds an index with
# builds for the CPU or for another version of CUDA; pytorch.org lists them.
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS system
# EGL, OpenGL and Mesa render videos without a display.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libegl1 libopengl0 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*
ENV MUJOCO_GL=egl PYTHONUNBUFFERED=1

# For the devcontainer: the tree is mounted, and `make` installs it into .venv.
FROM system AS development
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make openssh-client \
    && rm -rf /var/lib/apt/lists/*

FROM system
ARG TORCH_INDEX=
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/mtrl \
    && /opt/mtrl/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -c constraints.txt '.[report,video]' \
    && rm -rf /src/*
ENV PATH=/opt/mtrl/bin:$PATH
RUN useradd --create-home --uid 1001 mtrl && mkdir /runs && chown mtrl /runs
USER mtrl
WORKDIR /home/mtrl
ENTRYPOINT ["mtrl"]
CMD ["doctor"]
