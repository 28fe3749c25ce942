# demo: set up everything and continue a seed through a real server.  test: set up and pass the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PORT ?= 8080
BUCKET_PORT ?= 9023
WORKERS ?= 2
# Compiled modules are kept: every start of Beam or TensorFlow would be seconds slower without.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-all check serve examples figures pianist bench fuzz kills soak sound browser lock audit sbom images clean \
  bucket cloud-check stack gate stack-down base build publish deploy project-named
demo: sound
	$(BIN)/python -m infra.demo --output out/demo

# `make test PART=serving` runs the tests of one part: a folder of tests/.
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests$(PART:%=/%)

test: check sound browser
	$(PYTEST) -m "not slow"

test-slow: sound browser
	$(PYTEST) -m slow

test-all: test test-slow

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: .venv/ready
	$(BIN)/python -m serving --port $(PORT)

# Write docs/examples again, which the README links to. Do not edit these files by hand.
examples: sound
	$(BIN)/python -m infra.demo.examples --output docs/examples

# Send good and bad requests for an hour; print a line a minute, and end with exit code 1 if something grows or is stuck.
soak: sound
	nice -n 19 $(BIN)/python -m benchmarks.soak --minutes 60

# Measure again what docs/benchmarks.md and models/MODEL_CARD.md say of a model: nats on both splits, similarity to real
# music (also as out/listen/index.html), copies of the training set, examples.
MODEL ?= models/performance/1
DATA ?= data/maestro
figures: sound
	$(BIN)/python -m trainer evaluate --model $(MODEL) --data $(DATA) --split validation
	$(BIN)/python -m trainer evaluate --model $(MODEL) --data $(DATA) --split test
	$(BIN)/python -m trainer listen --model $(MODEL) --data $(DATA)
	$(BIN)/python -m benchmarks.originality --model $(MODEL) --data $(DATA) --split validation
	$(BIN)/python -m benchmarks.originality --model $(MODEL) --data $(DATA) --split test
	$(BIN)/python -m infra.demo.examples --model $(MODEL) --output docs/examples

# The long run of the shipped pianist, phase by phase; docs/lab-book.md has the plan. Started again, a phase goes on.
# On a CPU without matrix units (amx_bf16) JAX is the faster library for it.
# A phase begins with the run of the phase before; where that is gone, `FROM=models/performance/1` names what ships.
PHASE ?= 1
PIANIST ?= runs/pianist
FROM ?= $(PIANIST)/$(shell expr $(PHASE) - 1)
BACKEND ?= $(if $(shell grep -m 1 -o amx_bf16 /proc/cpuinfo),tensorflow,jax)
PIANIST_1 = --recipe performance --set core.units=256 --set core.layers=2 --set core.dropout=0.0 --set core.ordered=True \
  --set heads.hidden=512 --set heads.dropout=0.0 --set heads.recall=1024 --set training.window=128 --set training.batch=16 \
  --set training.steps=500 --set training.epochs=18 --set training.rate=0.005 --set training.warmup=200 \
  --set training.floor=0.1 --set training.average=0.995 --set training.validation=256 --set training.keep=5
PIANIST_2 = --from $(FROM) --set core.units=512 --set training.window=256 --set training.batch=16 \
  --set training.steps=125 --set training.epochs=60 --set training.rate=0.002 --set training.warmup=100 \
  --set training.floor=0.1 --set training.average=0.995 --set training.patience=60 --set training.keep=10
PIANIST_3 = --from $(FROM) --set controls.use=True --set core.dropout=0.1 --set training.window=256 --set training.batch=16 \
  --set training.steps=125 --set training.epochs=28 --set training.rate=0.002 --set training.warmup=100 \
  --set training.floor=0.05 --set training.average=0.995 --set training.patience=60 --set training.keep=10
PIANIST_4 = --from $(FROM) --set core.attention=256 --set training.optimizer=muon --set training.window=256 \
  --set training.batch=16 --set training.steps=125 --set training.epochs=26 --set training.rate=0.003 --set training.warmup=100 \
  --set training.floor=0.03 --set training.average=0.995 --set training.patience=60 --set training.keep=10

pianist: .venv/ready
	nice -n 5 $(BIN)/python -m trainer train $(PIANIST_$(PHASE)) --backend $(BACKEND) --data $(DATA) --run $(PIANIST)/$(PHASE)

# Kill each stage a hundred times at random instants. It takes hours, on a machine that does nothing else.
kills: .venv/ready
	KILLS=100 nice -n 19 $(BIN)/python -m pytest -q -s -m slow tests/robustness/test_kills.py

bench: sound
	$(BIN)/python -m benchmarks.preprocess
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.rendering

.venv/ready: requirements/uv.txt requirements/dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements/dev.txt
	touch $@

# Install FluidSynth, a system library, where it is missing and we have the rights; otherwise one line says how.
sound: .venv/ready
	@sh infra/demo/sound.sh $(BIN)/python

# The same for Chromium, which the tests of the page need.
browser:
	@sh infra/demo/browser.sh

# --- The cloud, in the order of infra/README.md, which says what each step costs -------------------------------------
REGION ?= europe-west4
IMAGES = $(REGION)-docker.pkg.dev/$(PROJECT)/cadenza
TAG ?= latest
LABEL ?= stable
GATE ?= http://127.0.0.1:$(PORT)
COMPOSE = docker compose --file infra/cloud/compose.yaml

# Run an emulated bucket, gs://cadenza, in memory, to try gs:// without an account. It runs until you stop it.
bucket: .venv/ready
	@echo "export STORAGE_EMULATOR_HOST=http://127.0.0.1:$(BUCKET_PORT)"
	@$(BIN)/gcp-storage-emulator start --host 127.0.0.1 --port $(BUCKET_PORT) --default-bucket cadenza --in-memory --quiet

# Check all that can be checked without an account: the files against Google's and TF Serving's own messages.
cloud-check: .venv/ready
	$(BIN)/python -m pytest -q -rs -m "not slow" $(addprefix tests/infra/test_,$(addsuffix .py, \
	  cloudbuild deploy gate images infra_readme model_server_files submit_training tensorflow_version terraform)) tests/preprocessing/test_dataflow.py

# Run the front end with the official TF Serving and the shipped model. It needs Docker with its compose plugin.
stack:
	$(COMPOSE) up --build --detach --wait

gate: .venv/ready
	$(BIN)/python -m infra.cloud.gate $(GATE)

stack-down:
	$(COMPOSE) down

project-named:
	@test -n "$(PROJECT)" || { echo "make: name the project, as in: make base PROJECT=my-music-1234" >&2; exit 2; }

# Terraform asks before it changes anything. TF_VAR_billing_account and TF_VAR_alert_email answer two questions in advance.
base: project-named
	terraform -chdir=infra/terraform init -backend-config=bucket=$(PROJECT)-cadenza-terraform
	terraform -chdir=infra/terraform apply -var=project=$(PROJECT) -var=region=$(REGION)

build: project-named
	gcloud builds submit --project=$(PROJECT) --region=$(REGION) --config=cloudbuild.yaml \
	  --gcs-source-staging-dir=gs://$(PROJECT)-cadenza-temp/source --substitutions=_REGION=$(REGION)

# Copy the shipped model and TF Serving's configuration into the bucket. models.config is copied only once: after that,
# `python -m infra.cloud.versions` writes it.
publish: project-named
	gcloud storage cp models/performance gs://$(PROJECT)-cadenza-models --recursive
	gcloud storage cp infra/cloud/batching.config infra/cloud/monitoring.config gs://$(PROJECT)-cadenza-models
	gcloud storage cp infra/cloud/models.config gs://$(PROJECT)-cadenza-models --no-clobber

deploy: project-named .venv/ready
	$(BIN)/python -m infra.cloud.deploy --project $(PROJECT) --region $(REGION) --image $(IMAGES)/cadenza-serve:$(TAG) --label $(LABEL)

# The lock files hold versions and hashes, and no registry's address. Those of the images follow dev.txt's versions.
# `make lock UPGRADE=` adds a new dependency and leaves the others as they are.
UPGRADE ?= --upgrade
COMPILE = $(BIN)/uv pip compile --quiet $(UPGRADE) --generate-hashes --no-emit-index-url --no-header --python-version 3.11
IMAGE = $(COMPILE) --constraint requirements/dev.txt --python-platform x86_64-manylinux_2_28 setup.py
# TensorFlow without its CUDA kernels, half the size, of the same version.
CPU = sed -n 's/^tensorflow==\([0-9.]*\).*/tensorflow-cpu==\1/p' requirements/dev.txt | \
  $(IMAGE) - --override requirements/cpu.in

lock: .venv/ready
	echo uv | $(COMPILE) - -o requirements/uv.txt
	echo atheris | $(COMPILE) - -o requirements/fuzz.txt
	$(COMPILE) requirements/audit.in -o requirements/audit.txt
	$(COMPILE) setup.py $(addprefix --extra ,preprocessing trainer jax serving audio plots score cloud dataflow infra dev) -o requirements/dev.txt
	$(IMAGE) $(addprefix --extra ,trainer gpu cloud) -o requirements/train-gpu.txt
	$(CPU) $(addprefix --extra ,trainer cloud) -o requirements/train.txt
	$(IMAGE) $(addprefix --extra ,serving audio cloud) -o requirements/serve.txt
	$(IMAGE) $(addprefix --extra ,serving audio cloud plots score) -o requirements/serve-full.txt
	$(CPU) --override requirements/embedded.in $(addprefix --extra ,serving audio cloud embedded) -o requirements/embedded.txt
	$(IMAGE) $(addprefix --extra ,preprocessing dataflow cloud) -o requirements/worker.txt

# Ask the registry's own service whether a version in a lock file is known to be vulnerable. Fail where one is, and where
# not every version could be asked about. There is nothing of npm's to audit: the page has no package, and needs no build.
LOCKS = dev uv serve serve-full embedded train train-gpu worker audit fuzz
AUDIT = .venv/audit

audit: .venv/ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AUDIT)
	$(BIN)/uv pip sync --quiet --require-hashes --python $(AUDIT)/bin/python requirements/audit.txt
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  $(foreach lock,$(LOCKS),--requirement requirements/$(lock).txt)

# List what is in each image and in this environment, as CycloneDX. Each image contains its own, /opt/venv/sbom.cdx.json.
sbom: .venv/ready
	mkdir -p out/sbom
	for lock in $(LOCKS); do $(BIN)/python -m infra.images.sbom requirements/$$lock.txt > out/sbom/$$lock.cdx.json || exit 1; done

# Build the images with buildah on a substitute base, start them, and print their sizes. It needs root, on Linux.
images: .venv/ready
	$(BIN)/python -m tests.images

# Fuzz the readers of bytes with tests/robustness/fuzz: two targets at a time, each for MINUTES. out/fuzz has the inputs that
# reached new code, and those that failed. `make fuzz TARGET=midi` runs one. CI does not run this, but the inputs that failed.
MINUTES ?= 15
TARGET ?= midi archives records tensors cards http
fuzz: .venv/fuzz
	printf '%s\n' $(TARGET) | xargs -P 2 -I NAME sh -c \
	  '$(BIN)/python -m tests.robustness.fuzz NAME --minutes $(MINUTES) >out/fuzz/NAME.log 2>&1 || { tail -n 20 out/fuzz/NAME.log; exit 1; }'
	tail -n 6 $(TARGET:%=out/fuzz/%.log)

.venv/fuzz: .venv/ready requirements/fuzz.txt
	$(BIN)/uv pip install --quiet --require-hashes --python $(BIN)/python -r requirements/fuzz.txt
	mkdir -p out/fuzz
	touch $@

clean:
	rm -rf .venv out
