# Each target makes its own environment in .venv first. PYTHON chooses the interpreter, ARGS goes to the command.
PYTHON ?= python3
ARGS ?=
# Workers of the tests, which wait more than they compute: about four for each processor.
WORKERS ?= 8
BIN := .venv/bin
PIP_OPTIONS := --quiet --disable-pip-version-check
# The versions of everything that pip installs; /dev/null takes the newest.
CONSTRAINTS ?= tests/constraints.txt
# What depends on the version of MongoDB: each kind of write, images, transactions, large events, reads in the past, failures.
COMPAT_MONGODB := $(addprefix integration/test_,changes copy images before_images order large wanted_changes values resume backlog adaptive_feed ttl) \
    integration/mongodb_5 faults/test_kill faults/test_failover
COMPAT_FILES := $(addprefix tests/,$(addsuffix .py,$(COMPAT_MONGODB))) \
    tests/integration/test_mappings.py::test_operators_of_mongod_are_allowed_or_refused_by_name
# Each worker takes the next test in the order of tests/conftest.py.
PARALLEL := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
PYTEST := $(BIN)/pytest $(PARALLEL)

demo: .venv/demo
	$(BIN)/zmsd demo $(ARGS)

# Everything that a change must pass, with the short versions of the fault tests.
test: prepare
	$(PYTEST) $(ARGS)

unit: .venv/test
	$(PYTEST) tests/unit $(ARGS)

integration e2e: prepare
	$(PYTEST) tests/$@ $(ARGS)

# The long versions of the fault tests, one at a time: each needs the machine for itself. Then those of other tests: more
# random cases, more combinations of settings, and every zero-cache with the processes that it has in production.
LONG = tests/e2e $(shell grep -lwE 'pick|ZMSD_TEST_LONG' -r tests/integration tests/unit --include='test_*.py')
faults: prepare
	ZMSD_TEST_LONG=1 $(BIN)/pytest tests/faults $(LONG) $(ARGS)

# Other versions of MongoDB, each with both values of feed.scope; then upgrades from one to another under load.
# MONGODS names their binaries (tests/support/fetch_mongods.sh gets some). README.rst has the result.
MONGODS ?=
compat-mongodb: prepare
	@test -n "$(MONGODS)" || { echo "MONGODS is empty: make compat-mongodb MONGODS=\"DIRECTORY/*/mongod\""; exit 1; }
	for mongod in $(MONGODS); do for scope in collection database; do \
	    echo "== $$mongod, feed.scope $$scope"; \
	    ZMSD_MONGOD=$$mongod ZMSD_TEST_SCOPE=$$scope $(PYTEST) $(COMPAT_FILES) $(ARGS) || exit 1; \
	done; done
	ZMSD_TEST_MONGODS="$(MONGODS)" $(BIN)/pytest tests/faults/upgrade.py $(ARGS)

# A sharded cluster of yours, which is not supported before someone has run this: ARGS="--uri mongodb://MONGOS/". Prints a verdict.
sharded: .venv/test
	$(BIN)/python -m tests.sharded $(ARGS)

# Other versions of zero-cache; the table of README.rst has the result.
compat: prepare
	$(PYTEST) tests/e2e/compat.py $(ARGS)

# The tests that depend on libraries, with the oldest versions that setup.cfg allows, and with the newest of everything.
# Each has an environment of its own in build/.
OF_LIBRARIES := unit $(addprefix integration/test_,changes.py values.py gateway.py tls.py store.py store_nats.py)
oldest newest: prepare
	$(PYTHON) -m venv build/$@
	build/$@/bin/pip install $(PIP_OPTIONS) --upgrade --upgrade-strategy eager '.[test]' \
	    $(if $(filter oldest,$@),--constraint tests/oldest.txt)
	build/$@/bin/pytest $(PARALLEL) $(addprefix tests/,$(OF_LIBRARIES)) $(ARGS)

# Write tests/constraints.txt: the newest versions, in a new environment. Run all tests with them before you commit it.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install $(PIP_OPTIONS) '.[test,man,demo,nats,dist]'
	sed -n 1p tests/constraints.txt > build/constraints.txt
	build/lock/bin/pip freeze --all | grep -v -e '^zmsd' -e '^pip==' >> build/constraints.txt
	mv build/constraints.txt tests/constraints.txt

# Packages of the system that tests need: installed for root, named for other users.
prepare: .venv/test
	tests/prepare

# The package and the unit on a bare Debian 12 with a booted systemd, and `make install` on Debian 13: needs root,
# debootstrap and systemd-container.
systemd: .venv/test
	$(BIN)/pytest tests/systemd/booted.py tests/systemd/walk.py tests/systemd/zero_cache.py $(ARGS)

# dist/zmsd_VERSION_ARCHITECTURE.deb, for the Debian release that this runs on (its python3 must be that of .venv).
deb: .venv/test
	$(BIN)/python packaging/deb.py $(ARGS)

# dist/zmsd-VERSION.tar.gz and the wheel, the same bytes each time.
dist: .venv/test .venv/dist
	$(BIN)/python packaging/dist.py $(ARGS)
	$(BIN)/twine check --strict dist/*.tar.gz dist/*.whl

# dist/zmsd.cdx.json: what an installation with NATS consists of, as CycloneDX.
TOOLS := build/tools/bin
sbom:
	$(PYTHON) -m venv build/tools
	$(TOOLS)/pip install $(PIP_OPTIONS) --constraint packaging/tools.txt cyclonedx-bom
	$(PYTHON) -m venv --clear --without-pip build/runtime
	$(TOOLS)/pip --python build/runtime/bin/python install $(PIP_OPTIONS) --constraint $(CONSTRAINTS) '.[nats]'
	mkdir -p dist
	$(TOOLS)/cyclonedx-py environment --output-reproducible --of JSON -o dist/zmsd.cdx.json build/runtime/bin/python

# Known vulnerabilities of what is installed there. Asks the vulnerability service of PyPI, so it needs the Internet.
audit: sbom
	$(TOOLS)/pip install $(PIP_OPTIONS) --constraint packaging/tools.txt pip-audit
	$(TOOLS)/pip-audit --strict --path build/runtime/lib/python3.*/site-packages $(ARGS)

bench: .venv/test
	$(BIN)/python -m bench $(ARGS)

# The manual pages, for /usr/local/share/man/man8 and man5.
man: .venv/man
	mkdir -p build/man
	$(BIN)/rst2man docs/man/zmsd.8.rst build/man/zmsd.8
	$(BIN)/rst2man docs/man/zmsd.yaml.5.rst build/man/zmsd.yaml.5

# For systems without the Debian package, as root: an environment in /opt/zmsd, the units, the manual pages, and the example
# settings where there are none. Enables and starts nothing; run it again to upgrade.
UNITS := /etc/systemd/system
install: man
	$(PYTHON) -m venv /opt/zmsd
	/opt/zmsd/bin/pip install --quiet --disable-pip-version-check --upgrade .
	ln -sf /opt/zmsd/bin/zmsd /usr/local/bin/zmsd
	install -D -m 644 -t /usr/local/share/man/man8 build/man/zmsd.8
	install -D -m 644 -t /usr/local/share/man/man5 build/man/zmsd.yaml.5
	install -D -m 644 -t $(UNITS) systemd/zmsd.service systemd/zmsd@.service \
	    systemd/zmsd-verify.service systemd/zmsd-verify.timer
	if [ "$$(systemctl --version | awk 'NR == 1 { print int($$2) }')" -ge 254 ]; then \
	    install -D -m 644 -t $(UNITS)/zmsd.service.d systemd/254.conf; \
	    install -D -m 644 -t $(UNITS)/zmsd@.service.d systemd/254.conf; \
	fi
	install -D -m 644 systemd/zmsd.sysusers /etc/sysusers.d/zmsd.conf
	systemd-sysusers zmsd.conf
	install -d /etc/zmsd
	install -d -m 700 /etc/credstore
	cp -n etc/zmsd.yaml etc/schema.json etc/mappings.json /etc/zmsd/
	[ ! -d /run/systemd/system ] || systemctl daemon-reload

style: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/mypy

clean:
	rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp of an extra: installed again only when what is to be installed has changed.
.venv/demo .venv/man .venv/test .venv/dist: .venv/%: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_OPTIONS) --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@

.PHONY: demo test unit integration e2e faults compat compat-mongodb sharded oldest newest lock prepare systemd deb dist sbom audit \
    bench man install style types clean
