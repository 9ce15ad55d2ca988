PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check format docs lock bench bench-headlines bench-clinc150 bench-bound bench-statistics \
	bench-latency bench-start bench-stream bench-snips bench-snips-calls bench-spider \
	bench-curation-headlines bench-curation-clinc150 bench-active bench-engine \
	bench-micro-snips bench-micro-geoquery bench-micro-headlines \
	bench-distillation bench-training bench-lora bench-routing bench-monitor bench-pii bench-limits bench-fuzz \
	bench-gateway bench-gateway-peers bench-gateway-soak bench-gateway-faults bench-gateway-streams bench-gateway-encoder \
	bench-gateway-fuzz bench-demo

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*?## /\t/' | expand -t 20

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] if not (3, 11) <= sys.version_info[:2] < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

install: $(VENV)/installed ## Make the virtual environment with every extra, from the lock file

# The demo needs a part of the lock file only; where everything is installed, it takes that.
READY := $(if $(wildcard $(VENV)/installed),$(VENV)/installed,$(VENV)/demo)
$(VENV)/demo: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c requirements.lock hatchling editables
	$(BIN)/python -m pip install --quiet --no-build-isolation -c requirements.lock -e '.[train,minilm]'
	@touch $@

demo: $(READY) ## Pilot the helpdesk example: no network, no key, under five minutes
	@$(BIN)/tiercel pilot examples/helpdesk/traffic.jsonl.gz --max-loss 0.05 --out demo

test: install ## Run the tests, in two to four processes
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

check: install ## Lint, format, types, floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: install ## Write docs/commands.md and docs/configuration.md from the program
	$(BIN)/python docs/generate.py

lock: install ## Write requirements.lock from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' > requirements.lock

bench: bench-statistics bench-headlines bench-clinc150 bench-snips bench-snips-calls bench-bound bench-latency bench-start bench-stream bench-spider ## All benchmarks

bench-headlines: install ## Figures on HEADLINES
	$(BIN)/python benchmarks/pilots.py headlines

bench-clinc150: install ## Figures on CLINC150
	$(BIN)/python benchmarks/pilots.py clinc150

bench-bound: install ## How often the bound breaks over resplits of stored scores
	$(BIN)/python benchmarks/bound.py

bench-statistics: install ## Simulated violations and power of the certificate
	$(BIN)/python benchmarks/simulation.py

bench-snips: install ## Figures on SNIPS as JSON
	$(BIN)/python benchmarks/pilots.py snips

bench-snips-calls: install ## Figures on SNIPS as function calls
	$(BIN)/python benchmarks/pilots.py snips-calls

bench-spider: install ## Grammar, guard and execution of SQL on Spider and GeoQuery
	$(BIN)/python benchmarks/spider.py

bench-curation-headlines: install ## Wrong labels found in HEADLINES, as it is and with planted ones
	$(BIN)/python benchmarks/curation.py headlines

bench-curation-clinc150: install ## Wrong labels found in CLINC150 with planted ones
	$(BIN)/python benchmarks/curation.py clinc150

bench-active: install ## How many chosen labels are worth 1,000 random ones
	$(BIN)/python benchmarks/active.py

bench-engine: install ## Decode speed of the engine against bare llama.cpp
	$(BIN)/python benchmarks/engine.py

bench-micro-snips: install ## A decoder from scratch on SNIPS, 25 minutes
	$(BIN)/python benchmarks/micro.py snips --threads 2 --test

bench-micro-geoquery: install ## A decoder from scratch on GeoQuery
	$(BIN)/python benchmarks/micro.py geoquery --size 1000000 --threads 1 --test

bench-micro-headlines: install ## A decoder from scratch on HEADLINES
	$(BIN)/python benchmarks/micro.py headlines --test

bench-distillation: install ## A larger decoder teaches a smaller one; after bench-micro-headlines
	$(BIN)/python benchmarks/distillation.py headlines --test

bench-training: install ## Speed of training against a bare torch loop
	$(BIN)/python benchmarks/training.py micro --size 2500000 --rows 2560 --epochs 2
	$(BIN)/python benchmarks/training.py encoder

bench-lora: install ## Speed and memory of LoRA steps; needs a GPU for 1B and 7B shapes
	$(BIN)/python benchmarks/lora.py

bench-gateway-peers: install ## Install the gateway's peers for bench-gateway: 1 GB outside the repository
	$(BIN)/python benchmarks/gateway/install_peers.py

bench-gateway: install ## Latency, throughput and memory of the gateway beside its peers; after bench-gateway-peers
	$(BIN)/python benchmarks/gateway/compare.py

bench-gateway-soak: install ## A million requests: memory, errors, records
	$(BIN)/python benchmarks/gateway/soak.py

bench-gateway-faults: install ## Failing providers, kill -9 and SIGTERM under load
	$(BIN)/python benchmarks/gateway/faults.py

bench-gateway-streams: install ## Delay of streams, 200 at once for ten minutes
	$(BIN)/python benchmarks/gateway/streams.py

bench-gateway-encoder: install ## Requests that an encoder bundle answers
	$(BIN)/python benchmarks/gateway/encoder.py

bench-gateway-fuzz: install ## Whatever schemathesis thinks of, against a gateway, for ten minutes
	$(BIN)/python benchmarks/gateway/fuzz.py

bench-demo: install ## Time of `make demo` in a fresh clone with its own virtual environment
	$(BIN)/python benchmarks/demo.py

bench-routing: install ## Routers on recorded answers: MMLU, GSM8K, pairs of six models
	$(BIN)/python benchmarks/routing.py

bench-monitor: install ## False alarms, delay and coverage of the online monitor
	$(BIN)/python benchmarks/monitor.py

bench-limits: install ## Time of keys and limits
	$(BIN)/python benchmarks/limits.py

bench-pii: install ## Personal data found, by kind, and time per KB
	$(BIN)/python benchmarks/personal_data.py test

bench-fuzz: install ## Fuzz the dialects for ten minutes
	$(BIN)/python benchmarks/fuzz_dialects.py 600

bench-latency: install ## Latency and throughput of the served students
	$(BIN)/python benchmarks/latency.py

bench-start: install ## How fast the program starts
	$(BIN)/python benchmarks/start.py

bench-stream: install ## Memory while one gigabyte is imported
	$(BIN)/python benchmarks/stream.py
