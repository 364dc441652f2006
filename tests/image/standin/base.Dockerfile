# Only for the tests: what docker/Dockerfile needs of PyTorch's image, small and without CUDA.
FROM scratch
ARG TORCH
ADD debian.tar /
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    PIP_CONFIG_FILE=/run/secrets/pip python3 -m pip install -q --no-cache-dir --break-system-packages "${TORCH}"
