# Each target does all of its own set-up in .venv: Python 3.11, pip and make are enough.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo easy-vqa emoji-diffusion test lint types layers wheel pytest clean

demo: $(VENV)/.demo
	JAX_PLATFORMS=cpu $(BIN)/jvlm train --config configs/clip_tiny_emoji_pretrain.py --workdir runs/demo

# BLIP-2, LLaVA and Flamingo over one frozen SmolLM2, from one vision tower, and the table of what they answer.
easy-vqa: $(VENV)/.demo
	$(BIN)/pip install -q -c constraints.txt -e ".[demo]"
	JAX_PLATFORMS=cpu $(BIN)/jvlm train --config configs/blip2_tiny_easyvqa_pretrain.py --workdir runs/easyvqa-stage1
	for family in blip2 llava flamingo; do JAX_PLATFORMS=cpu $(BIN)/jvlm train \
		--config configs/$${family}_smollm_easyvqa_finetune.py --workdir runs/$${family}-easyvqa || exit 1; done
	$(BIN)/python scripts/easy_vqa_table.py runs/blip2-easyvqa runs/llava-easyvqa runs/flamingo-easyvqa

# Text to emoji: an autoencoder, its latents in shards, and a denoiser that listens to the demo's text tower.
emoji-diffusion: $(VENV)/.demo
	test -d runs/demo/export || $(MAKE) demo
	JAX_PLATFORMS=cpu $(BIN)/jvlm train --config configs/autoencoder_tiny_emoji_pretrain.py \
		--workdir runs/emoji-autoencoder
	test -e runs/emoji-latents/00000.tar || JAX_PLATFORMS=cpu $(BIN)/jvlm data latents --model runs/emoji-autoencoder \
		--output runs/emoji-latents
	JAX_PLATFORMS=cpu $(BIN)/jvlm train --config configs/ldm_tiny_emoji_pretrain.py --workdir runs/emoji-diffusion

test: lint types layers wheel pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright

layers: $(VENV)/.test
	$(BIN)/lint-imports

# Builds the wheel, installs it elsewhere and runs it from another folder.
wheel: $(VENV)/.test
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	$(BIN)/python tests/wheel_check.py dist

pytest: $(VENV)/.test
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

# open_clip asks for a torchvision that asks for another torch; the tests need neither's compiled operators.
$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt tests/requirements-no-deps.txt
	$(BIN)/pip install -q -c constraints.txt setuptools wheel torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[test,dev,tpu,fast,tensorboard,demo]"
	$(BIN)/pip install -q --no-deps -r tests/requirements-no-deps.txt
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist .cache runs
