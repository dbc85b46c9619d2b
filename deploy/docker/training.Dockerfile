# syntax=docker/dockerfile:1
# Training worker: one run at a time; if it is stopped, another worker resumes it from its last epoch. Torch's wheel
# contains CUDA; the host provides the driver (NVIDIA Container Toolkit). Build from the project's root:
#   docker build -f deploy/docker/training.Dockerfile -t pneumoscreen-training .
FROM python:3.11-slim AS build
WORKDIR /src
COPY deploy/locks/torch.txt deploy/locks/worker.txt ./
RUN python -m venv /opt/pneumoscreen \
    && /opt/pneumoscreen/bin/pip install --no-cache-dir --no-deps --require-hashes -r torch.txt -r worker.txt
COPY pyproject.toml README.md LICENSE ./
COPY db db
COPY worker worker
COPY scheduler scheduler
COPY training training
COPY deploy deploy
RUN /opt/pneumoscreen/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/pneumoscreen /opt/pneumoscreen
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin pneumoscreen \
    && install -d -o pneumoscreen -m 0700 /data
ENV PATH=/opt/pneumoscreen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PNEUMOSCREEN_HOME=/data \
    PNEUMOSCREEN_SECRETS=/run/secrets \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /data
VOLUME /data
# At TERM the worker gives the run back at its next step. Checkpoints must be on a shared volume, for the next worker.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "training.tasks", "worker", "-Q", "training", "-n", "training@%h", "--pool=threads", "--concurrency=1", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["pneumoscreen", "alive", "training"]
