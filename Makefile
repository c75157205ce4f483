# Thin on purpose: every target is one or two commands that also run by hand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON := /usr/bin/python3

# Debian's Rust, also where rustup's comes first on PATH
export CARGO := /usr/bin/cargo
export RUSTC := /usr/bin/rustc
export RUSTDOC := /usr/bin/rustdoc
export RUSTFMT := /usr/bin/rustfmt
export CARGO_TARGET_DIR := $(CURDIR)/build/host

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

run: guest kernel-6.1 ## Boot a demonstration in QEMU
	$(PYTHON) tests/demo.py

shell: guest kernel-6.1 ## Boot the same and get a shell in it
	$(PYTHON) tests/demo.py --shell

test: build ## All tests: on this machine, then in QEMU
	$(CARGO) test --workspace --locked
	$(PYTHON) -m pytest -n $$(($$(nproc) + 1)) --ignore=tests/test_debian_amd64.py tests

test-amd64: build debian-root-amd64 ## The amd64 package in a real Debian, on initramfs-tools and on dracut (20 minutes)
	$(PYTHON) -m pytest -n 2 tests/test_debian_amd64.py

power-cut: build ## Cut the power of a flushing guest at thousands of points (a few minutes)
	$(PYTHON) tests/power_cut.py

soak: build ## A router under load for 200 flushes, with kills and power cuts (up to half an hour)
	$(PYTHON) tests/soak.py

bench: build ## Sizes, memory, boot time, and flushes beside the classic recipe (15 minutes)
	$(PYTHON) tests/bench.py

bench-wear: build rsync ## Erases of a card beside what people use today, with a plot (about 40 minutes)
	@cross/deps.sh python3-matplotlib
	$(PYTHON) tests/bench_wear.py

BOARD := $(if $(BASE),,alix2)
IMAGE := build/$(BOARD).img
ARGS :=
image: guest $(if $(BOARD),kernel-board-$(BOARD)) ## A card's image: BOARD=alix2, or BASE=some.img to add cowflush to (ARGS=--dry-run)
ifdef BASE
	@$(PYTHON) -m image add $(BASE) $(if $(BOARD),--kernel build/kernel-$(BOARD)/bzImage) $(ARGS)
else
	@$(PYTHON) -m image board $(BOARD) --kernel build/kernel-$(BOARD)/bzImage --out $(IMAGE) $(if $(SIZE),--size $(SIZE)) $(ARGS)
endif

flash: ## Write an image to a card and read it back: DEV=/dev/sdX IMAGE=build/alix2.img
	@$(PYTHON) -m image flash $(IMAGE) $(or $(DEV),$(error name the card: make flash DEV=/dev/sdX)) $(if $(YES),--yes)

SECONDS := 60
fuzz: deps ## Fuzz what reads input: SECONDS=60 for each target
	fuzz/run $(SECONDS)

lint: deps ## Formatting, clippy, shellcheck
	/usr/bin/cargo-fmt fmt --all --check
	/usr/bin/cargo-clippy clippy --workspace --all-targets --locked -- -D warnings
	cross/clippy i586
	shellcheck --external-sources .ci/run fuzz/run cross/*.sh cross/{build,busybox,clippy,debian-root,debian-root-amd64,linux-newest,musl,promtool,rsync,sqlite} tests/debian/prepare \
		image/rootfs/etc/init.d/* image/rootfs/usr/sbin/flusher image/rootfs/usr/share/udhcpc/default.script \
		tests/openwrt/root/{sbin/*,etc/rc.common,etc/preinit,lib/functions.sh,lib/functions/*,lib/preinit/*,etc/init.d/*} \
		package/openwrt/build package/openwrt/files/{cowflush.init,cowflush.preinit,cowflush.upgrade,postinst,prerm} \
		package/debian/{42_cowflush,grub-default.cfg,build,postinst,prerm,postrm,cowflush.init,cowflush.shutdown,initramfs/*} package/dracut/*.sh package/cowflush.bash

fmt: deps ## Format the Rust sources
	/usr/bin/cargo-fmt fmt --all

KERNELS := $(foreach version,6.1 6.12 newest,kernel-$(version) kernel-$(version)-x86_64)
build: guest guest-x86_64 $(KERNELS) promtool deb-i386 deb-amd64 debian-root ipk images ## Binary, initramfs, the kernels, the packages and what tests need, in build/

clean: ## Remove build/ (what cross builds stays in the cache)
	rm -rf build

# build/i586: cowflush, the test helpers, busybox and sqlite3; build/initramfs.cpio.gz
guest: deps host
	@cross/build i586
	@initramfs/build build/initramfs.cpio.gz build/i586/cowflush
	@busybox=$$(cross/busybox i586); ln -sf "$$busybox"/busybox{,.links} build/i586/
	@sqlite=$$(cross/sqlite i586); ln -sf "$$sqlite"/sqlite3 build/i586/

# build/x86_64: the same with 64 bits, but for sqlite3
guest-x86_64: deps
	@cross/build x86_64
	@initramfs/build build/x86_64/initramfs.cpio.gz build/x86_64/cowflush
	@busybox=$$(cross/busybox x86_64); ln -sf "$$busybox"/busybox{,.links} build/x86_64/

# build/host/release/cowflush, for this machine: it recovers cards in the tests
host: deps ## The program for this machine, in build/host/release
	@$(CARGO) build --quiet --release --locked

# build/i586/rsync, which only bench-wear puts on its card
rsync: deps
	@mkdir -p build/i586
	@rsync=$$(cross/rsync i586); ln -sf "$$rsync"/rsync build/i586/

ARCH := i386
deb: deb-$(ARCH) ## Debian's package, in build/: ARCH=i386 or amd64

deb-%: deps
	@package/debian/build $*

OPENWRT_ARCH := i386_pentium-mmx
ipk: guest ## OpenWrt's package, in build/, and the folder for OpenWrt's own build system
	@package/openwrt/build $(OPENWRT_ARCH)

# build/promtool/promtool, for tests
promtool: deps
	@mkdir -p build
	@promtool=$$(cross/promtool); ln -sfn "$$promtool" build/promtool

# build/debian: Debian systems to install the package in, for tests
debian-root: deps
	@mkdir -p build
	@root=$$(cross/debian-root); ln -sfn "$$root" build/debian

# build/debian-amd64: one with 64 bits
debian-root-amd64: deps
	@mkdir -p build
	@root=$$(cross/debian-root-amd64); ln -sfn "$$root" build/debian-amd64

# build/kernel-VERSION/bzImage: VERSION is 6.1, 6.12 or newest
kernel-%: deps
	@mkdir -p build
	@kernel=$$(cross/kernel.sh $* qemu-i586); ln -sfn "$$kernel" build/kernel-$*

# build/kernel-VERSION-x86_64/bzImage
kernel-%-x86_64: deps
	@mkdir -p build
	@kernel=$$(cross/kernel.sh $* qemu-x86_64); ln -sfn "$$kernel" build/kernel-$*-x86_64

kernel-board-qemu-x86_64:
	@echo "no image for $(@:kernel-board-%=%): the programs of an image are for i586" >&2; exit 1

# build/kernel-BOARD/bzImage: a board's kernel, of the version that it is tested with
kernel-board-%: deps
	@mkdir -p build
	@[ -f board/$*/kernel.version ] || { echo "no board \"$*\": those in board/ are there" >&2; exit 1; }
	@kernel=$$(cross/kernel.sh "$$(cat board/$*/kernel.version)" $*); ln -sfn "$$kernel" build/kernel-$*

# build/alix2.img, and the kernel of the image that tests lay out as OpenWrt does
images: guest kernel-board-alix2 kernel-board-openwrt-geode
	@$(PYTHON) -m image board alix2 --kernel build/kernel-alix2/bzImage --out build/alix2.img

deps:
	@cross/deps.sh

.PHONY: help run shell test test-amd64 power-cut soak bench bench-wear image images flash fuzz lint fmt build clean guest guest-x86_64 host deb ipk debian-root debian-root-amd64 promtool rsync deps
