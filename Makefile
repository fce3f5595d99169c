SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION := v1.9.0

# real: PostgreSQL, Kafka and RabbitMQ; embedded: what needs nothing but Go.
SERVICES  ?= real
# embedded or real: what `make demo` publishes to.
BROKERS   ?= embedded
DEMOFLAGS ?=
# Packages and flags for go test, such as TESTFLAGS='-run TestName'.
PACKAGES  ?= ./...
TESTFLAGS ?=
# Which mutants: a regular expression on their names. Empty: all.
MUTANTS   ?=
# How long each fuzz target runs.
FUZZTIME  ?= 30s

# Two packages at a time suit two cores; a third would only make the services
# slower. The race detector needs a C compiler.
gotest = go run ./internal/devenv/cmd/gotest \
	$$(command -v gcc >/dev/null && echo -race) -count=1 -p 2 -timeout 28m $(1) $(TESTFLAGS) $(PACKAGES)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/outboxd
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/ ./cmd/outboxd

.PHONY: services
services: ## Install and download what the tests need
	internal/devenv/install.sh
	go run ./internal/devenv/cmd/services -fetch

.PHONY: test
test: test-$(SERVICES) ## Run all tests, race detector on, no skips (SERVICES=embedded: with Go alone)

.PHONY: test-real
test-real: services build
	go run ./internal/devenv/cmd/services $(call gotest,)

.PHONY: test-embedded
test-embedded: build
	@command -v gcc >/dev/null || echo 'no C compiler: tests run without the race detector'
	go run ./internal/devenv/cmd/services -only postgres $(call gotest,-tags embedded)
	@echo
	@echo 'not covered, for lack of real Kafka and RabbitMQ (make test covers it):'
	@grep -rl --include='*_test.go' '^//go:build !embedded' . | sort | while read -r file; do \
		sed -n "/^func TestMain(/d; s|^func \(Test[A-Za-z0-9_]*\)(.*|  $${file%/*} \1|p" "$$file"; done

# Both leave the page as it was when a row fails.
matrix-page = mv bin/matrix.jsonl testdata/matrix/$(1).jsonl && \
	go run ./internal/checker/cmd/matrix testdata/matrix/*.jsonl > docs/robustness.md

.PHONY: matrix
matrix: ## Run the fault matrix, which make test runs too, and write docs/robustness.md
	@rm -f bin/matrix.jsonl
	OUTBOXD_MATRIX_REPORT=$(CURDIR)/bin/matrix.jsonl $(MAKE) test-real PACKAGES=./cmd/outboxd/e2e TESTFLAGS='-run "^Test(Matrix|CrashPoints)"'
	$(call matrix-page,short)

.PHONY: matrix-long
matrix-long: ## Run those faults and copies of databases that take longer (OUTBOXD_IDLE=10m, OUTBOXD_AWAY=1m: how long idle ones last, and outages of brokers), and write docs/robustness.md
	@rm -f bin/matrix.jsonl
	OUTBOXD_MATRIX_REPORT=$(CURDIR)/bin/matrix.jsonl $(MAKE) test-real PACKAGES='./cmd/outboxd/e2e ./cmd/outboxd/internal/parked ./internal/devenv' TESTFLAGS='-tags long -run ^TestLong -timeout 90m'
	$(call matrix-page,long)

.PHONY: lint
lint: bin/golangci-lint-$(GOLANGCI_LINT_VERSION) mod-check ## Check format, vet, static analysis and go.mod
	$< run
	$< run --build-tags embedded
	$< run --build-tags long

# Built with the installed Go: a linter older than the language does not parse it.
bin/golangci-lint-$(GOLANGCI_LINT_VERSION):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint $@

# Exit code 3 is a finding. VULNFLAGS=-db=URL asks a copy of the database.
.PHONY: vuln
vuln: bin/govulncheck-$(GOVULNCHECK_VERSION) ## Look for known vulnerabilities in what is called (asks vuln.go.dev)
	$< $(VULNFLAGS) $(PACKAGES)

bin/govulncheck-$(GOVULNCHECK_VERSION):
	GOBIN=$(CURDIR)/bin go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv bin/govulncheck $@

.PHONY: fmt
fmt: bin/golangci-lint-$(GOLANGCI_LINT_VERSION) ## Format the code
	$< fmt

.PHONY: mod-check
mod-check: ## Check that go.mod and go.sum are tidy and the modules unchanged
	go mod tidy -diff
	go mod verify

.PHONY: kills
kills: services ## Kill the relay N times with SIGKILL (N=1000 BROKER=Kafka|RabbitMQ SEED=1)
	OUTBOXD_KILLS=$(or $(N),100) OUTBOXD_SEED=$(or $(SEED),1) go run ./internal/devenv/cmd/services \
		go test -count=1 -timeout 4h -v -run 'TestKillLoop/$(BROKER)' ./cmd/outboxd/e2e

.PHONY: soak
soak: services build ## Random faults for TIME (TIME=2h BROKER=Kafka|RabbitMQ SEED=1)
	OUTBOXD_SOAK=$(or $(TIME),10m) OUTBOXD_SEED=$(or $(SEED),1) go run ./internal/devenv/cmd/services -only postgres \
		go test -tags long -count=1 -timeout 24h -v -run 'TestSoak/$(BROKER)' ./cmd/outboxd/e2e

.PHONY: demo
demo: ## Run the shop (BROKERS=real: real Kafka and RabbitMQ)
	@if [ '$(BROKERS)' = real ]; then $(MAKE) --no-print-directory services; fi
	@echo 'compiling, which takes a minute the first time'
	CGO_ENABLED=0 go run -trimpath ./examples/shop -brokers $(BROKERS) $(DEMOFLAGS)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | while IFS=: read -r file target; do \
		echo "$${file%/*} $${target#func }"; \
		go test -run '^$$' -fuzz "^$${target#func }$$" -fuzztime $(FUZZTIME) "$${file%/*}" </dev/null; done

# The tests in question speak to PostgreSQL, kfake and a scripted RabbitMQ.
.PHONY: mutants
mutants: ## Put defects into the code, one at a time: the tests must notice (MUTANTS=regexp: those alone)
	go run ./internal/devenv/cmd/services -only postgres go run ./internal/mutants/cmd/mutants -run '$(MUTANTS)'

.PHONY: cover
cover: services ## Write coverage.out and show the total
	go run ./internal/devenv/cmd/services go test -count=1 -p 2 -timeout 20m -coverpkg=./... -coverprofile=coverage.out $(PACKAGES)
	@go tool cover -func=coverage.out | tail -1

.PHONY: ci
ci: ## What the build server runs
	.ci/run
