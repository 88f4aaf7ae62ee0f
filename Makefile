# Two commands: `make quickstart` and `make test`. Both create .venv and install the pinned packages if needed.
#
#   TORCH_INDEX   a package index for torch only, e.g. https://download.pytorch.org/whl/cpu (PyPI's build has CUDA)
#   PYTHON        the interpreter that .venv is created with (3.11 to 3.13)

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN := outputs/quickstart
# q4_k_m is added if llama.cpp's quantizer is installed.
KQUANT = $(if $(shell command -v llama-quantize)$(wildcard $(VENV)/lib/python*/site-packages/llama_cpp),q4_k_m)

.PHONY: quickstart test install schema clean

quickstart: $(VENV)/installed
	$(BIN)/python scripts/sft.py recipes/quickstart.yaml --output-dir $(RUN) --overwrite
	$(BIN)/python scripts/eval_generate.py $(RUN) --model base
	$(BIN)/python scripts/eval_generate.py $(RUN)
	$(BIN)/python scripts/eval_generate.py $(RUN) --data embedded:nli-fr:test_lexical
	$(BIN)/python scripts/export_gguf.py $(RUN) --quant q8_0 $(KQUANT)
	$(BIN)/python scripts/eval_generate.py $(RUN) --model $(RUN)/gguf/quickstart-q8_0.gguf
	@echo
	@echo "recipe and record  $(RUN)/recipe.yaml  $(RUN)/run.json  $(RUN)/train_log.jsonl"
	@echo "adapter            $(RUN)/adapter"
	@echo "measurements       $(RUN)/eval/{base,adapter,adapter@nli-fr-test_lexical,gguf-q8_0}"
	@echo "merged, GGUF       $(RUN)/merged  $(RUN)/gguf/quickstart-q8_0.gguf  $(RUN)/gguf/parity.json"
	@echo "report             $(RUN)/report.html"

test: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

install: $(VENV)/installed

schema: $(VENV)/installed
	$(BIN)/python -m toolkit.cli.schema > schema/recipe.schema.json

$(VENV)/installed: requirements/base.txt requirements/torch.txt requirements/unsloth.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	$(PIP) -r requirements/base.txt
	$(PIP) --no-deps -r requirements/unsloth.txt
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed requirements/test.txt requirements/ray.txt
	$(PIP) -r requirements/test.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
