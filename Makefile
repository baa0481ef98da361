# Everything a user or contributor runs; each target does its own set-up.

SWIFT ?= swift

.PHONY: all build deps demo gpu-check rust-vmm demo-full test unit kernel-test guest-test kernel-test-new storm lint sanitize fuzz attack format install clean help bench mutants torn gst-test piglit scene-model dist uninstall deb quick test-all test-packages

all: build

help:
	@echo "make build      build .build/release/pinhole (static Swift runtime)"
	@echo "make demo       a Linux guest's picture, discarded and redrawn: look at demo/sheet.png"
	@echo "make test       what CI runs: unit tests, kernel tests in a VM, real guests, programs"
	@echo "make quick      lint and unit tests of a debug build, before each commit"
	@echo "make test-all   make test, and all stages that it leaves out: packages, libvirt, a storm"
	@echo "make unit       tests that need no device and no privilege"
	@echo "make storm      discard pages at random under a guest that draws, in a VM"
	@echo "make gst-test   GStreamer reads frames (on Debian 12: unpacks a Debian 13 first)"
	@echo "make piglit     300 of piglit's tests on Pinhole's 3D and on virgl_test_server: the same results"
	@echo "make scene-model  a million random steps of the scene against a plain reference"
	@echo "make lint       format and import rules"
	@echo "make sanitize   the tests under the address and the thread sanitizer"
	@echo "make fuzz       all fuzz targets for SECONDS=10 each, or one: TARGET=gpu"
	@echo "make attack     hostile consumers, strangers and front-ends, SECONDS=30 for each"
	@echo "make bench      measure beside QEMU's own back-end; tables in bench/, or one part: ONLY=copy"
	@echo "make mutants    make small faults and tell which of them no test notices (an hour)"
	@echo "make gpu-check  what this machine's GPUs make of guest pages: a page of text for an issue"
	@echo "make rust-vmm   rust-vmm's front-end against Pinhole (unpacks Rust of Debian 13 first)"
	@echo "make install    install to PREFIX (default /usr/local); make uninstall removes it again"
	@echo "make deb        Debian packages in .build/deb"

deps:
	vm/deps

# What `pinhole NAME` starts: programs of their own, installed in libexec. `pinhole-guest`, which
# tests and demos use, is built with them and not installed.
PROGRAMS = pinhole-renderer pinhole-input pinhole-pipewire pinhole-gst
PROGRAMS += pinhole-vnc pinhole-wayland

VERSION := $(shell sed -n 's/^package let pinholeVersion = "\(.*\)"/\1/p' Sources/Command/Program.swift)
# For `build` alone: the tests' builds would begin anew with each commit.
PINHOLE_COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)

build: deps
	for product in pinhole $(PROGRAMS) pinhole-guest; do \
	  PINHOLE_COMMIT=$(PINHOLE_COMMIT) \
	    $(SWIFT) build -c release --static-swift-stdlib --product $$product || exit 1; \
	done

demo: build
	scripts/demo

# The demo leaves nothing out: this is another name for it.
demo-full: demo

test: build
	Tests/run

# Whoever may connect does its worst; the unit tests have half a second of each.
attack: build
	PINHOLE_ATTACK_SECONDS=$(or $(SECONDS),30) PINHOLE=$(CURDIR)/.build/release/pinhole \
	  SWIFT_BACKTRACE=enable=no $(SWIFT) test --filter AttackTests

unit: deps
	Tests/run unit

kernel-test: build
	Tests/run kernel

# The same on the newest kernel of Debian's sid.
kernel-test-new: build
	PINHOLE_KERNEL=new Tests/run kernel

# Discards under fire, on the real udmabuf in a VM: make storm DETECTOR=faults PUNCHES=1000000
DETECTOR ?= scan
PUNCHES ?= 100000
STORM ?=
storm: build
	vm/run -M 2G -t 7200 -- .build/release/pinhole-guest storm --detector $(DETECTOR) \
	  --punches $(PUNCHES) --bursts-per-frame 10 $(STORM)

# A million random steps of the scene against a plain reference; PINHOLE_SEED repeats one.
scene-model: deps
	PINHOLE_SCENE_STEPS=1000000 $(SWIFT) test -c release -Xswiftc -enable-testing \
	  --scratch-path .build-tests --filter ModelTests

guest-test: build
	Tests/run guest

# GStreamer reads frames; on Debian 12 that takes a Debian 13 tree of 700 MB.
gst-test: build
	Tests/run gst

# What EGL, GBM, KMS and OpenGL do with guest pages here; on the stock kernel in a VM with VM=1.
gpu-check: build
	@scripts/gpu-check $(if $(VM),vm)

# A second front-end: the crate that libkrun uses, from Debian 13's packages.
rust-vmm: build
	Tests/rust-vmm

# Debian's piglit through Mesa's virgl driver; virgl_test_server is the oracle.
piglit: build
	Tests/run piglit

lint:
	Tests/run lint

sanitize: deps
	Tests/run sanitize sanitize-thread

fuzz: deps
	Tests/fuzz $(or $(SECONDS),10) $(TARGET)

bench: build
	ONLY=$(ONLY) bench/run
# Held frames of a stock guest on QEMU 11 are never torn: many minutes, in the VM.
torn: build
	$(SWIFT) build --product frame-reader
	READER=$$($(SWIFT) build --show-bin-path)/frame-reader Tests/guest-blobs vm

# Each fault by itself, so many of them beside each other: make mutants ONLY=Buffers VM=1 JOBS=2
ONLY ?=
VM ?=
mutants: deps
	Tests/mutants --only "$(ONLY)" --jobs $(or $(JOBS),1) $(if $(VM),--vm)

format:
	$(SWIFT) format -i -r Sources Tests Fuzz bench Package.swift

PREFIX ?= /usr/local
DESTDIR ?=
# libvirt reads two folders: the distribution's own and this one.
DESCRIPTORS ?= $(if $(filter /usr,$(PREFIX)),/usr/share,/etc)/qemu/vhost-user
# For the two scripts alone: exported, they would reach every make and build that a test starts.
PLACES = PREFIX="$(PREFIX)" DESCRIPTORS="$(DESCRIPTORS)" PROGRAMS="$(PROGRAMS)" VERSION="$(VERSION)"

# Stripped programs, their symbols beside them, manual pages and completions, in .build/dist.
dist:
	$(PLACES) packaging/dist

install: dist
	$(PLACES) packaging/files | while read -r mode source target; do \
	  install -D -m $$mode $$source $(DESTDIR)$$target || exit 1; \
	done

uninstall:
	$(PLACES) packaging/files | while read -r mode source target; do rm -f $(DESTDIR)$$target; done
	for folder in libexec/pinhole share/doc/pinhole; do \
	  [ ! -d $(DESTDIR)$(PREFIX)/$$folder ] || \
	    find $(DESTDIR)$(PREFIX)/$$folder -depth -type d -empty -delete; \
	done

# Debian packages of what `make build` built, in .build/deb, and what lintian says of them.
deb: build
	packaging/deb

# The packages in chroots of Debian 12 and 13: installed, run, upgraded, removed, purged. As root.
test-packages: deb
	Tests/packages

# Before each commit, on a built tree: lint, and unit tests of a debug build, but for those that
# start other processes, which take longer than 90 seconds.
quick: lint
	$(SWIFT) build --build-tests
	SWIFT_BACKTRACE=enable=no $(SWIFT) test --skip-build --skip 'KernelTests|AttackTests|FakeGuestTests|RenderingTests'

# Everything, also what takes longer than CI has time for.
test-all: test test-packages
	Tests/run sanitize-thread
	Tests/run discards
	Tests/run libvirt
	Tests/run gst
	Tests/run virgl-trixie
	Tests/run piglit
	Tests/guest-discards hugetlb vm
	Tests/fuzz 120
	$(MAKE) kernel-test-new torn rust-vmm
	$(MAKE) gpu-check VM=1
	$(MAKE) storm PUNCHES=1000000

clean:
	rm -rf .build .build-* demo
