.PHONY: setup check test demo bench

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
