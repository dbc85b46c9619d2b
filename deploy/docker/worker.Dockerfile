# syntax=docker/dockerfile:1
# Screening worker, one process for each GPU; without a GPU it runs on the CPU. Torch's wheel contains CUDA; the
# host provides the driver (NVIDIA Container Toolkit). Build from the project's root:
#   docker build -f deploy/docker/worker.Dockerfile -t pneumoscreen-worker .
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
# At TERM it finishes its batches; at a second TERM, or QUIT, it gives them back at once.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker.tasks", "worker", "-Q", "screen", "-n", "screen@%h", "--pool=threads", "--concurrency=2", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s --retries=3 \
    CMD ["pneumoscreen", "alive", "screen"]
