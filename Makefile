# Kindling's one door: `make` says what there is. CI runs the same targets (.ci/run).
#
# One profile, release, serves the library, the tests, clippy and rustdoc: compiling the dependencies (libtorch's
# bindings above all) takes minutes on two cores, and a second profile would take them again.
# Steps run one after another, because each of the builds uses every core by itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup native jar wheel demo zoo test test-native test-jvm test-python test-integration check check-rust \
  check-jvm check-python check-text format bench-collective bench-programs bench-checkpointing bench-ingest \
  bench-fit bench-spill bench-transform clean distclean FORCE

# Looked up on first use, so that `make help` needs no Python.
VENV = $(eval VENV := $$(shell scripts/venv path))$(VENV)
TORCH = $(eval TORCH := $$(shell scripts/venv torch))$(TORCH)
PYTHON_BIN = $(VENV)/bin/python

NATIVE := $(CURDIR)/build/libkindling.so
REPLAY := $(CURDIR)/build/replay
JAR := $(CURDIR)/build/kindling.jar
JAR_IN_WHEEL := python/src/kindling/jars/kindling.jar

MVN := mvn -B -ntp -f jvm-bindings/pom.xml
CARGO := scripts/cargo
PYTHON_CODE := python examples integration-tests

# What tests and examples find Kindling by; nothing of it is needed by users. Without SPARK_LOCAL_IP Spark takes the
# first address that is not loopback, and a cluster inside one machine has no business on a network.
RUN = env LIBTORCH='$(TORCH)' KINDLING_NATIVE='$(NATIVE)' KINDLING_JAR='$(JAR)' KINDLING_REPLAY='$(REPLAY)' \
  PYTHONPATH='$(CURDIR)/python/src' PYSPARK_PYTHON='$(PYTHON_BIN)' SPARK_LOCAL_IP=127.0.0.1 PATH='$(VENV)/bin':"$$PATH"

help: ## list the targets
	@echo 'Kindling, distributed deep learning inside Apache Spark. Targets:'
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## look for the tools and create the Python environment
	@scripts/require
	@scripts/venv make

native: $(NATIVE) ## build the native library build/libkindling.so

jar: $(JAR) ## build build/kindling.jar, the native library inside

wheel: $(JAR_IN_WHEEL) ## build the Python wheel in build/, the jar inside
	'$(PYTHON_BIN)' -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build ./python
	@ls build/kindling-*.whl

# Cargo knows what is out of date; scripts/cargo replaces these files only when they changed.
$(NATIVE): FORCE | setup
	$(CARGO) build --release --workspace --locked

# kindling-replay, told where libtorch is: a library path for all tests would hide a jar that cannot do without one.
$(REPLAY): $(NATIVE)
	printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$$@"\n' '$(TORCH)/lib' '$(CURDIR)/build/kindling-replay' >'$@'
	chmod +x '$@'

$(JAR): $(NATIVE) jvm-bindings/pom.xml $(shell find jvm-bindings/src -type f)
	$(MVN) -q package -Dmaven.test.skip=true -DskipTests -Dkindling.native='$(NATIVE)'
	cp jvm-bindings/target/kindling.jar '$@'

$(JAR_IN_WHEEL): $(JAR)
	mkdir -p '$(@D)'
	cp '$<' '$@'

# Spark says goodbye after the result; awk holds the result back, so that it is the last line.
demo: $(JAR_IN_WHEEL) ## train a small network on two Spark executors, and print its accuracy
	@$(RUN) '$(PYTHON_BIN)' examples/01_digits.py --master 'local-cluster[2,1,2048]' </dev/null | \
	  awk '/^demo: / { result = $$0; next } { print; fflush() } END { if (result == "") exit 1; print result }'

test: test-native test-jvm test-python test-integration ## build everything and run every test

# It knows by content what is out of date. One thread per process, and the nets one after another.
zoo: | setup ## train the models that people bring in Python, into build/zoo, for test-native to compare with
	PYTHONPATH='$(CURDIR)/python/src' '$(PYTHON_BIN)' integration-tests/golden/zoo.py build/zoo

test-native: $(NATIVE) zoo ## cargo test of every crate
	$(CARGO) test --release --workspace --locked

test-jvm: $(JAR) ## the Scala tests
	$(RUN) $(MVN) test -Dkindling.native='$(NATIVE)'

test-python: $(JAR_IN_WHEEL) ## the tests of the Python package
	cd python && $(RUN) '$(PYTHON_BIN)' -m pytest

test-integration: $(JAR_IN_WHEEL) $(REPLAY) ## Spark clusters on this machine, golden files, examples, README
	$(RUN) '$(PYTHON_BIN)' -m pytest integration-tests/spark integration-tests/bench

check: check-text check-python check-rust check-jvm ## formatting, lints, types and docs, as CI wants them

check-rust: | setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --workspace --no-deps --locked

check-jvm: | setup
	$(MVN) -q scalafmt:format@check

check-python: | setup
	'$(VENV)/bin/ruff' format --check $(PYTHON_CODE)
	'$(VENV)/bin/ruff' check $(PYTHON_CODE)
	cd python && '$(VENV)/bin/mypy'
	cd integration-tests && '$(VENV)/bin/mypy'

# A path in somebody's home folder works on one machine only. git grep ends with 1 when it found nothing; 128 is a failure.
check-text:
	@status=0; git grep --untracked -nIE '/(home|root|Users)/[A-Za-z0-9_.]' -- . || status=$$?; \
	case $$status in \
	  1) ;; \
	  0) echo 'check: the lines above name a home folder' >&2; exit 1 ;; \
	  *) echo "check: git grep ended with $$status, so nothing was checked" >&2; exit 1 ;; \
	esac

format: | setup ## format every source file
	$(CARGO) fmt --all
	$(MVN) -q scalafmt:format@format
	'$(VENV)/bin/ruff' format $(PYTHON_CODE)
	'$(VENV)/bin/ruff' check --fix $(PYTHON_CODE)

bench-collective: | setup ## compare the all-reduce with gloo's on this machine; BENCH='--quick' hands options on
	$(CARGO) build --release --locked -p kindling-collective --example collective_rank
	'$(PYTHON_BIN)' integration-tests/bench/collective.py --program build/collective_rank $(BENCH)

bench-programs: | setup ## compare a step of training with PyTorch's on this machine; BENCH='--quick' hands options on
	$(CARGO) build --release --locked -p kindling-integration-tests --bin kindling-steps
	$(RUN) '$(PYTHON_BIN)' integration-tests/bench/programs.py --program build/kindling-steps $(BENCH)

bench-checkpointing: | setup ## memory and time of a step with activationCheckpointing; BENCH='--rounds 3' hands options on
	$(CARGO) build --release --locked -p kindling-integration-tests --bin kindling-steps
	$(RUN) '$(PYTHON_BIN)' integration-tests/bench/checkpointing.py --program build/kindling-steps $(BENCH)

# The Spark of the Python environment, with the test classes on its class path.
bench-ingest: $(JAR) ## compare reading a DataFrame with Spark's ArrowWriter on this machine; BENCH='--rounds 3' hands options on
	$(MVN) -q test-compile -Dkindling.native='$(NATIVE)'
	$(RUN) '$(VENV)/bin/spark-submit' --driver-memory 4g --driver-class-path '$(CURDIR)/jvm-bindings/target/test-classes:$(JAR)' \
	  --class kindling.bench.IngestBench spark-internal $(BENCH)

bench-fit: $(JAR_IN_WHEEL) ## compare a whole fit with TorchDistributor, Elephas and DDP; BENCH='--rows 100000' hands options on
	$(RUN) '$(PYTHON_BIN)' integration-tests/bench/fit.py $(BENCH)

bench-spill: $(JAR_IN_WHEEL) ## train on 20 GB of rows with 2 GB of shardMemory; BENCH='--large 6000 --budget 600' hands options on
	$(RUN) '$(PYTHON_BIN)' integration-tests/bench/spill.py $(BENCH)

bench-transform: $(JAR_IN_WHEEL) ## compare transform with Spark's predict_batch_udf; BENCH='--rounds 3' hands options on
	$(RUN) '$(PYTHON_BIN)' integration-tests/bench/transform.py $(BENCH)

clean: ## remove what was built in this checkout
	rm -rf build jvm-bindings/target python/src/kindling/jars

distclean: clean ## clean, and empty the cache that all checkouts share
	cache=$$(scripts/cache) && rm -rf "$$cache"/venv-* "$$cache"/target
