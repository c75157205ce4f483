# Thin on purpose: every target is one or two commands that also run by hand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := /usr/bin/python3
# The programs of tests/: each is a folder, or a module of one
OF_TESTS := PYTHONPATH=tests $(PYTHON) -m

# Debian's Rust, also where rustup's comes first on PATH
export CARGO := /usr/bin/cargo
export RUSTC := /usr/bin/rustc
export RUSTDOC := /usr/bin/rustdoc
export RUSTFMT := /usr/bin/rustfmt
export CARGO_TARGET_DIR := $(CURDIR)/build/host

# What each tier needs besides the one before it
FOR_TEST := guest kernel-6.1
FOR_THOROUGH := kernel-6.12 $(foreach version,6.1 6.12 newest,kernel-$(version)-x86_64) guest-x86_64 \
	promtool deb-i386 deb-amd64 ipk debian-systems newer
FOR_SYSTEMS := kernel-newest images debian-systems-amd64

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

run: router kernel-6.1 ## A demonstration: flushes, a power cut in the middle of one, what is there afterwards
	@$(OF_TESTS) demo

shell: router kernel-6.1 ## Boot the same and get a shell in it
	@$(OF_TESTS) demo --shell

# What can be tested already runs beside the builds. A target that fails ends the run, and is
# reported once: no test runs without what it needs.
SIDE_BY_SIDE := $(MAKE) --no-print-directory --jobs=2
PYTEST = $(PYTHON) -m pytest -n $$(($$(nproc) + 1)) --tier

test: deps ## The tests that say most: on this machine, then in QEMU (10 minutes; the first time 16)
	@$(SIDE_BY_SIDE) $(FOR_TEST) host-tests
	$(PYTEST) test tests

test-all: test ## All tests but those of test-systems: what CI runs (the first time an hour)
	@$(SIDE_BY_SIDE) $(FOR_THOROUGH)
	$(PYTEST) thorough tests

test-systems: deps ## Real systems step by step, boards, the newest kernel: docs/tested.md (an hour)
	@$(SIDE_BY_SIDE) $(FOR_TEST) $(FOR_THOROUGH) $(FOR_SYSTEMS)
	$(PYTEST) systems tests

# Rust's tests on the host
host-tests: deps
	MAKEFLAGS= $(CARGO) test --quiet --workspace --locked
	MAKEFLAGS= HISTORIES=10000 $(SIMULATE)

# On a failure this prints the seed, with the shortest history that fails.
SIMULATE = $(CARGO) test --quiet --profile simulate --locked --lib simulate:: -- --ignored --nocapture
SEED := 1
simulate: deps ## Histories with faults and power cuts on a model of a machine: SECONDS=60, from SEED=1 on
	MAKEFLAGS= SECONDS=$(SECONDS) SEED=$(SEED) $(SIMULATE)

DEFECT :=
defects: deps ## Put defects back, one at a time: the simulator must find each (DEFECT=name)
	@$(OF_TESTS) defects $(DEFECT)

power-cut: $(FOR_TEST) kernel-6.12 ## Cut the power of a flushing guest at thousands of points (a few minutes)
	$(OF_TESTS) powercut $(ARGS)

soak: $(FOR_TEST) kernel-6.12 ## A router under load for 200 flushes, with kills and power cuts (up to half an hour)
	$(OF_TESTS) soak $(ARGS)

bench: $(FOR_TEST) kernel-6.12 ## Sizes, memory, boot time, and flushes beside the classic recipe (15 minutes)
	$(OF_TESTS) bench $(ARGS)

bench-wear: $(FOR_TEST) rsync ## Erases of a card beside what people use today, with a plot (about 40 minutes)
	@cross/deps python3-matplotlib
	$(OF_TESTS) wear $(ARGS)

# What overwrites a card, or does so without a question, must be named on this command line: an
# exported variable of the same name means something else.
define ONLY_SAID_HERE
ifneq ($$(origin $(1)),command line)
$(1) :=
endif
endef
$(foreach name,BASE DEV IMAGE SIZE YES,$(eval $(call ONLY_SAID_HERE,$(name))))

BOARD := $(if $(BASE),,alix2)
ARGS :=
# Names go through the environment, so the shell interprets nothing in them. A result named by
# IMAGE= is never overwritten (ARGS=--replace does it); the names in build/ are.
image: export BASE := $(BASE)
image: export IMAGE := $(IMAGE)
image: guest $(if $(BOARD),kernel-board-$(BOARD)) ## A card's image: BOARD=alix2, or BASE=some.img to add cowflush to (ARGS=--dry-run)
ifdef BASE
	@$(PYTHON) -m image add $(if $(BOARD),--kernel build/kernel-$(BOARD)/bzImage) $(if $(IMAGE),--out "$$IMAGE") $(ARGS) -- "$$BASE"
else
	@$(PYTHON) -m image board $(BOARD) --kernel build/kernel-$(BOARD)/bzImage $(if $(IMAGE),--out "$$IMAGE",--replace --out build/$(BOARD).img) $(if $(SIZE),--size $(SIZE)) $(ARGS)
endif

flash: export DEV := $(DEV)
flash: export IMAGE := $(IMAGE)
flash: ## Write an image to a card and read it back: DEV=/dev/sdX IMAGE=build/alix2.img (YES=1 doesn't ask)
	@$(if $(DEV),,$(error name the card: make flash DEV=/dev/sdX))
	@$(if $(IMAGE),,$(error name the image: make flash IMAGE=FILE))
	@$(if $(filter-out 1 yes 0 no,$(YES)),$(error YES= is 1 or 0))
	@$(PYTHON) -m image flash $(if $(filter 1 yes,$(YES)),--yes) -- "$$IMAGE" "$$DEV"

SECONDS := 60
fuzz: deps ## Fuzz what reads input: SECONDS=60 for each target
	fuzz/run $(SECONDS)

SHARD :=
mutants: host ## Mutation tests of what decides and flushes: SHARD=1/40 is the first of forty parts (hours in all)
	$(OF_TESTS) mutants $(if $(SHARD),--shard $(SHARD)) $(ARGS)

lint: deps ## Rust, Python and shell: formatting and lints
	@cross/deps lint
	@cross/lint

keys: deps ## Write the configuration's keys into what lists them, after a change of src/pure/config
	@MAKEFLAGS= COWFLUSH_WRITE_KEYS=1 $(CARGO) test --quiet --locked --test keys everything || true
	@MAKEFLAGS= $(CARGO) test --quiet --locked --test keys

fmt: deps ## Format the sources of Rust and Python, and the documents
	@cross/deps lint
	@cross/lint --write
	@git ls-files -z '*.md' | xargs -0 $(PYTHON) tests/documents/markdown.py

build: deps ## Binary, initramfs and test kernel in build/: what `make test` needs
	@$(SIDE_BY_SIDE) $(FOR_TEST)

clean: ## Remove build/ (what cross builds stays in the cache)
	rm -rf build

# The processors that guests have: cross/lib/targets.sh
TARGETS := i586 x86_64

# build/TARGET: cowflush and busybox
$(TARGETS:%=router-%): router-%: deps
	@cross/build $* cowflush
	@busybox=$$(cross/busybox $*); ln -sf "$$busybox"/busybox{,.links} build/$*/

# build/TARGET: the same, and the tests' programs for guests
$(TARGETS:%=guest-%): guest-%: router-%
	@cross/build $* guest-tools

# build/i586 with sqlite3, and build/initramfs.cpio.gz
router: router-i586
	@initramfs/build build/initramfs.cpio.gz build/i586/cowflush
	@sqlite=$$(cross/test/sqlite i586); ln -sf "$$sqlite"/sqlite3 build/i586/

guest: router guest-i586 host

# build/newer: for tests, this program in the role of one with a newer format of the flush log
newer: deps
	@cross/test/newer

# build/host/release/cowflush, for the host: it recovers cards in the tests
host: deps ## The program for this machine, in build/host/release, and a helper of `make image`
	@MAKEFLAGS= $(CARGO) build --quiet --release --locked --bin cowflush --example log-header

# build/i586/rsync, which only bench-wear puts on its card
rsync: deps
	@mkdir -p build/i586
	@rsync=$$(cross/test/rsync i586); ln -sf "$$rsync"/rsync build/i586/

ARCH := i386
deb: deb-$(ARCH) ## Debian's package, in build/: ARCH=i386 or amd64

deb-%: deps
	@cross/deps debian
	@package/debian/build $*

OPENWRT_ARCH := i386_pentium-mmx
ipk: guest ## OpenWrt's package, in build/, and the folder for OpenWrt's own build system
	@package/openwrt/build $(OPENWRT_ARCH)

# build/promtool/promtool, for tests
promtool: deps
	@mkdir -p build
	@promtool=$$(cross/test/promtool); ln -sfn "$$promtool" build/promtool

# build/debian: Debian systems to install the package in, for tests
debian-root: deps
	@cross/deps debian
	@mkdir -p build
	@root=$$(cross/test/debian-root); ln -sfn "$$root" build/debian

# build/debian-amd64: a system with 64 bits
debian-root-amd64: deps
	@cross/deps debian
	@mkdir -p build
	@root=$$(cross/test/debian-root-amd64); ln -sfn "$$root" build/debian-amd64

# build/test-cache: those systems with the package in use, for tests. Minutes each, on one processor
debian-systems: debian-system-systemd debian-system-sysvinit
debian-systems-amd64: debian-system-amd64 debian-system-dracut

debian-system-systemd debian-system-sysvinit: debian-system-%: debian-root deb-i386
	@$(OF_TESTS) systems.debian_make $*

debian-system-amd64 debian-system-dracut: debian-system-%: debian-root-amd64 deb-amd64
	@$(OF_TESTS) systems.debian_make $*

# build/kernel-VERSION/bzImage: VERSION is 6.1, 6.12 or newest
kernel-%: deps
	@mkdir -p build
	@kernel=$$(cross/kernel $* qemu-i586); ln -sfn "$$kernel" build/kernel-$*

# build/kernel-VERSION-x86_64/bzImage, Debian's own, and build/initramfs-VERSION-x86_64.cpio.gz with
# the modules that QEMU's machine needs
kernel-%-x86_64: guest-x86_64
	@kernel=$$(cross/test/debian-kernel $*); ln -sfn "$$kernel" build/kernel-$*-x86_64
	@initramfs/build build/initramfs-$*-x86_64.cpio.gz build/x86_64/cowflush --modules build/kernel-$*-x86_64/modules/* --with ata_piix,sd_mod,ext4,loop,dm_snapshot

# build/kernel-BOARD/bzImage: a board's kernel, of the version that it is tested with
kernel-board-%: deps
	@mkdir -p build
	@[ -f board/$*/kernel.version ] || { echo "no board \"$*\": those in board/ are there" >&2; exit 1; }
	@kernel=$$(cross/kernel "$$(cat board/$*/kernel.version)" $*); ln -sfn "$$kernel" build/kernel-$*

# build/alix2.img, and the kernel of the image that tests partition as OpenWrt does
images: guest kernel-board-alix2 kernel-board-openwrt-geode
	@$(PYTHON) -m image board alix2 --kernel build/kernel-alix2/bzImage --out build/alix2.img --replace

deps:
	@cross/deps

# Every target without a pattern is a name, not a file.
.PHONY: $(foreach target,$(TARGETS),router-$(target) guest-$(target))
.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):\( .*\|\)$$/\1/p' $(firstword $(MAKEFILE_LIST)))
