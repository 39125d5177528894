# The whole project on a CPU: docker build -t so8t . && docker run --rm -it -v so8t-work:/work so8t make demo
# For CUDA pass --build-arg TORCH=https://download.pytorch.org/whl/cu126 and run with --gpus all. Not built in CI.
FROM python:3.12-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home so8t && mkdir /work && chown so8t /work
USER so8t
WORKDIR /work
COPY --chown=so8t pyproject.toml constraints.txt Makefile ./
COPY --chown=so8t tools/preflight.py tools/preflight.py
RUN python -m venv .venv && .venv/bin/python -m pip install --no-cache-dir "pip>=25.1" && .venv/bin/python -m pip install --no-cache-dir torch==2.13.0 --index-url ${TORCH}
COPY --chown=so8t . .
RUN .venv/bin/python -m pip install --no-cache-dir -c constraints.txt --group dev -e . && touch .venv/.installed
ENV PATH=/work/.venv/bin:$PATH OMP_WAIT_POLICY=passive
CMD ["so8t", "doctor"]
