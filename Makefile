# Everything a user or contributor runs; each target does its own set-up.

SWIFT ?= swift

.PHONY: all build deps demo demo-full test unit kernel-test guest-test kernel-test-new storm lint sanitize fuzz format install clean help

all: build

help:
	@echo "make build      build .build/release/pinhole (static Swift runtime)"
	@echo "make demo       a Linux guest's picture, discarded and redrawn: look at demo/sheet.png"
	@echo "make test       every test: unit, kernel (in a VM), real guests"
	@echo "make unit       tests that need no device and no privilege"
	@echo "make storm      discard pages at random under a guest that draws, in a VM"
	@echo "make lint       format and import rules"
	@echo "make sanitize   the tests under the address and the thread sanitizer"
	@echo "make fuzz       all fuzz targets for SECONDS=10 each, or one: TARGET=gpu"
	@echo "make install    install to PREFIX (default /usr/local), with the libvirt descriptor"

deps:
	vm/deps

build: deps
	$(SWIFT) build -c release --static-swift-stdlib --product pinhole

demo: build
	scripts/demo

# The demo leaves nothing out: this is another name for it.
demo-full: demo

test: build
	Tests/run

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
	vm/run -M 2G -t 7200 -- .build/release/pinhole guest storm --detector $(DETECTOR) \
	  --punches $(PUNCHES) --bursts-per-frame 10 $(STORM)

guest-test: build
	Tests/run guest

lint:
	Tests/run lint

sanitize: deps
	Tests/run sanitize

fuzz: deps
	Tests/fuzz $(or $(SECONDS),10) $(TARGET)

format:
	$(SWIFT) format -i -r Sources Tests Fuzz Package.swift

PREFIX ?= /usr/local
DESTDIR ?=
# libvirt reads two folders: the distribution's own and this one.
DESCRIPTORS ?= $(if $(filter /usr,$(PREFIX)),/usr/share,/etc)/qemu/vhost-user
install:
	install -D -m 0755 .build/release/pinhole $(DESTDIR)$(PREFIX)/bin/pinhole
	install -d $(DESTDIR)$(DESCRIPTORS)
	sed 's|@bindir@|$(PREFIX)/bin|' scripts/50-pinhole.json.in \
	  > $(DESTDIR)$(DESCRIPTORS)/50-pinhole.json

clean:
	rm -rf .build .build-* demo
