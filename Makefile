# The front door: SwiftPM builds the host, plugins/plugins.mk the operators; this file joins them in build/.
# `make help` lists the targets. Nothing here names an operator.
VERSION := 0.1.0
ABI := $(shell awk '/define ATTUNE_ABI_MAJOR/ {print $$3}' include/attune/types.h)
PREFIX ?= /usr/local
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)

B := build
SWIFT := $(firstword $(shell command -v swift) $(wildcard /opt/swift/usr/bin/swift) swift)
TOOLCHAIN := $(patsubst %/,%,$(dir $(SWIFT)))
CLANG := $(firstword $(shell command -v clang) $(wildcard $(TOOLCHAIN)/clang) cc)
PLUGIN_DIR := $(B)/lib/attune/plugins/$(ABI)
# The tests' Python: the system's if it has what they import, else a virtual environment.
TEST_IMPORTS := numpy pytest hypothesis
PYTHON := $(shell python3 -c '$(foreach m,$(TEST_IMPORTS),import $(m);)' 2> /dev/null && echo python3 || echo $(B)/venv/bin/python)
export PATH := $(PATH):$(TOOLCHAIN)

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: build run test check bench maps abi install format lint clean help copy deps host plugins

build: host plugins ## build everything into build/ (the default)
	@$(STAGE)

run: build ## build, then run the demo: every operator on real data
	$(B)/bin/attune demo

test: build $(filter $(B)/%,$(PYTHON)) ## run the tests; the last line counts them
	$(PYTHON) Tests/run

check: build lint $(filter $(B)/%,$(PYTHON)) ## the tests, the long ones too
	$(PYTHON) Tests/run --long

bench: build ## time every operator, then compare with other libraries (BENCH="--only decode --json FILE")
	python3 Tests/Benchmarks/run $(BENCH)

maps: build ## draw the pictures of docs/operators.md again
	docs/maps/draw

abi: ## rewrite the layout golden from the headers: goes with a line in CHANGELOG.md
	python3 Tests/ABI/layout.py --write

install: build ## copy build/ to PREFIX (default /usr/local; DESTDIR is honoured)
	@$(MAKE) --no-print-directory copy

copy:
	install -d "$(DESTDIR)$(PREFIX)"
	tar -C $(B) --owner=0 --group=0 --mode=u=rwX,go=rX -c $(PRODUCTS) \
	  | tar -C "$(DESTDIR)$(PREFIX)" -x --no-same-owner --no-overwrite-dir
	@echo "installed in $(DESTDIR)$(PREFIX)"

format: ## rewrite the sources in the project's style
	$(SWIFT) format format --in-place --recursive --parallel Package.swift Sources Tests
	@if command -v clang-format > /dev/null; then git ls-files '*.c' '*.cpp' '*.h' ':!include' | xargs clang-format -i; \
	else echo 'clang-format is not installed: C and C++ left as they are'; fi

lint: ## say where `make format` would change Swift
	$(SWIFT) format lint --strict --recursive --parallel Package.swift Sources Tests

clean: ## remove everything that was built
	rm -rf $(B) .build .build-*

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

host: deps
	$(SWIFT) build -c release -Xswiftc -static-stdlib --product attune
	$(SWIFT) build -c release -Xswiftc -static-stdlib --product attune-cli

# A plugin without a folder is left over from another state of the tree.
plugins: deps
	$(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS)) -f plugins/plugins.mk plugins PLUGIN_DIR=$(PLUGIN_DIR)
	@for f in $(PLUGIN_DIR)/attune_*.so; do n=$${f##*/attune_}; test -d plugins/$${n%.so} || rm -f $$f; done

# What a machine needs besides Swift. The compiler is asked, not the package manager.
has_header = echo '\#include <$(1)>' | $(CLANG) -x c++ -E - > /dev/null 2>&1
has_library = test -e "$$($(CLANG) -print-file-name=$(1))"
# apt as root, or by a sudo that asks nothing; else the line to type.
apt = if [ -n "$(1)" ]; then as=; [ "$$(id -u)" = 0 ] || as='sudo -n'; \
	{ $$as apt-get update && $$as apt-get install -y --no-install-recommends $(1); } || { \
	  echo "please run: sudo apt-get update && sudo apt-get install -y" $(1) >&2; exit 1; }; fi

deps: ## install the Debian packages that are missing
	@need=; \
	{ $(call has_header,ffi.h) && $(call has_library,libffi_pic.a); } || need="$$need libffi-dev"; \
	$(call has_library,libopenblas.so) || need="$$need libopenblas-dev"; \
	$(call has_header,hwy/highway.h) || need="$$need libhwy-dev"; \
	command -v python3 > /dev/null || need="$$need python3"; \
	$(call apt,$$need)

$(B)/venv/bin/python:
	@python3 -c 'import ensurepip' 2> /dev/null || { $(call apt,python3-venv); }
	python3 -m venv $(B)/venv
	$@ -m pip install --quiet $(TEST_IMPORTS)

# Staging: the tree that `make install` copies. A file is replaced by rename, since a process may have the old one mapped.
PRODUCTS := bin lib include python share
put = install -D -m $(1) $(2) $(B)/$(3).new && mv -f $(B)/$(3).new $(B)/$(3)
put_text = mkdir -p $(B)/$(dir $(2)) && printf '%s\n' "$$$(1)" > $(B)/$(2).new && mv -f $(B)/$(2).new $(B)/$(2)
put_tree = mkdir -p $(B)/$(dir $(2)) && rm -rf $(B)/$(2).new && cp -R $(1) $(B)/$(2).new \
	&& find $(B)/$(2).new -name __pycache__ -prune -exec rm -r {} + && rm -rf $(B)/$(2) && mv $(B)/$(2).new $(B)/$(2)

define STAGE
set -e; strip --strip-debug -o .build/release/libattune.stripped .build/release/libattune.so; \
$(call put,755,.build/release/libattune.stripped,lib/libattune.so.$(ABI)); \
ln -sfn libattune.so.$(ABI) $(B)/lib/libattune.so; \
$(call put,755,.build/release/attune-cli,bin/attune); \
$(call put_tree,include/attune,include/attune); \
$(call put_tree,Sources/python/attune,python/attune); \
$(call put_tree,examples/data,share/attune/data); \
$(call put_text,PKG_CONFIG_FILE,lib/pkgconfig/attune.pc); \
$(call put_text,CMAKE_CONFIG,lib/cmake/attune/attuneConfig.cmake); \
$(call put_text,CMAKE_VERSION,lib/cmake/attune/attuneConfigVersion.cmake); \
echo "attune $(VERSION), ABI $(ABI), is in $(B)/"
endef

# All three find the tree from their own place, so that it may be moved.
define PKG_CONFIG_FILE
prefix=$${pcfiledir}/../..
libdir=$${prefix}/lib
includedir=$${prefix}/include
plugindir=$${libdir}/attune/plugins/$(ABI)

Name: attune
Description: Registry of attention operators behind a C ABI
Version: $(VERSION)
Cflags: -I$${includedir}
Libs: -L$${libdir} -lattune -Wl,-rpath,$${libdir}
endef

define CMAKE_CONFIG
get_filename_component(_attune_prefix "$${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET attune::attune)
  add_library(attune::headers INTERFACE IMPORTED)
  set_target_properties(attune::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$${_attune_prefix}/include")
  add_library(attune::attune SHARED IMPORTED)
  set_target_properties(attune::attune PROPERTIES
    IMPORTED_LOCATION "$${_attune_prefix}/lib/libattune.so.$(ABI)"
    IMPORTED_SONAME "libattune.so.$(ABI)"
    INTERFACE_INCLUDE_DIRECTORIES "$${_attune_prefix}/include")
endif()
set(ATTUNE_PLUGIN_DIR "$${_attune_prefix}/lib/attune/plugins/$(ABI)")
# attune_add_plugin(name source...): a plugin attune_<name>.so; it needs the headers only.
function(attune_add_plugin name)
  add_library($${name} MODULE $${ARGN})
  target_link_libraries($${name} PRIVATE attune::headers)
  set_target_properties($${name} PROPERTIES PREFIX "" OUTPUT_NAME "attune_$${name}"
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden)
endfunction()
endef

define CMAKE_VERSION
set(PACKAGE_VERSION "$(VERSION)")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
endef
export PKG_CONFIG_FILE CMAKE_CONFIG CMAKE_VERSION
