# syntax=docker/dockerfile:1
# Scheduler, housekeeping, beat, Flower and metrics, without torch. Build from the project's root:
#   docker build -f deploy/docker/scheduler.Dockerfile -t pneumoscreen-scheduler .
FROM python:3.11-slim AS build
WORKDIR /src
COPY deploy/locks/scheduler.txt ./
RUN python -m venv /opt/pneumoscreen \
    && /opt/pneumoscreen/bin/pip install --no-cache-dir --no-deps --require-hashes -r scheduler.txt
COPY pyproject.toml README.md LICENSE ./
COPY db db
COPY worker worker
COPY scheduler scheduler
COPY training training
COPY deploy deploy
RUN /opt/pneumoscreen/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/pneumoscreen /opt/pneumoscreen
# A user without a password, a shell or rights; the root file system may be read-only.
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin pneumoscreen \
    && install -d -o pneumoscreen -m 0700 /data
ENV PATH=/opt/pneumoscreen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PNEUMOSCREEN_HOME=/data \
    PNEUMOSCREEN_SECRETS=/run/secrets
USER 10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
# Housekeeping unless another command is given: see compose.yaml.
CMD ["celery", "-A", "scheduler.tasks", "worker", "-Q", "housekeeping,ingest", "-n", "housekeeping@%h", "--pool=threads", "--concurrency=6", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD ["pneumoscreen", "alive", "housekeeping"]
