# The whole project on a CPU:
#   docker build -t so8t .
#   docker run --rm -it -v so8t-work:/work -v so8t-store:/so8t-store -v so8t-key:/home/so8t/.config/so8t so8t make demo
# CUDA: --build-arg TORCH=https://download.pytorch.org/whl/cu126, and run with --gpus all. Not built in CI; tests/unit/test_setup.py
# checks that every path and version named here exists.
FROM python:3.12.11-slim-bookworm

ARG TORCH=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake git make && rm -rf /var/lib/apt/lists/*
# /so8t-store is the default DVC remote, ../so8t-store seen from /work
RUN useradd --create-home so8t && mkdir /work /so8t-store && chown so8t /work /so8t-store
USER so8t
WORKDIR /work
COPY --chown=so8t pyproject.toml constraints.txt Makefile ./
COPY --chown=so8t tools/preflight.py tools/preflight.py
RUN python -m venv .venv
RUN .venv/bin/python -m pip install --no-cache-dir "pip>=25.1"
RUN .venv/bin/python -m pip install --no-cache-dir torch==2.13.0 --index-url ${TORCH}
COPY --chown=so8t . .
RUN .venv/bin/python -m pip install --no-cache-dir -c constraints.txt --group dev -e . && touch .venv/.installed
# `make demo` makes the key that signs releases when it runs: one in the image would be everybody's
RUN SO8T_KEY=/tmp/build.key .venv/bin/so8t init && rm /tmp/build.key && git clean -fq release.pub && mkdir -p /home/so8t/.config/so8t
ENV PATH=/work/.venv/bin:$PATH OMP_WAIT_POLICY=passive
CMD ["so8t", "doctor"]
