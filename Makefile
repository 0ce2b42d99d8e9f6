# make demo    the main job on this machine: a bucket with cloud latency, a mount, three epochs, a chart
# make test    everything that must hold: format, lints, licences, tidy, all tests
# make bench   the table of targets, measured side by side (see bench/README.md)
# make bench-cluster   the same of a cluster: four nodes in network namespaces (root)

.PHONY: demo test bench bench-cluster build lint clean

demo:
	@scripts/setup demo
	cargo build --release --locked --package feedline
	target/release/feedline demo

test: lint
	FEEDLINE_PYTHON=$(CURDIR)/.venv/bin/python FEEDLINE_DALI_PYTHON=$(CURDIR)/.venv-dali/bin/python \
		FEEDLINE_TORCH_PYTHON=/usr/bin/python3 cargo test --workspace --locked

lint:
	@scripts/setup test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask tidy
	@scripts/check-deps

bench:
	@scripts/setup demo
	@scripts/setup loaders
	cargo build --release --locked --package feedline
	target/release/feedline bench targets

bench-cluster:
	@scripts/setup cluster
	cargo build --release --locked --package feedline
	target/release/feedline bench cluster

build:
	@scripts/setup build
	cargo build --release --locked --package feedline

clean:
	cargo clean
