# Builds the operator plugins: a folder here with plugin.c or plugin.cpp is one operator and becomes one
# attune_<folder>.so. Names no operator. Works alone (`make -f plugins/plugins.mk`) and included; variables: PLUGIN_DIR,
# PLUGIN_OBJ, TEMPLATE_DIR, CC, CXX.
PLUGIN_SRC := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
PLUGIN_DIR ?= build/lib/attune/plugins/1
PLUGIN_OBJ ?= build/obj/plugins
TEMPLATE_DIR ?= build/template
ifeq ($(origin CXX),default)
  CXX := $(shell command -v clang++ || echo c++)
endif
ifeq ($(origin CC),default)
  CC := $(shell command -v clang || echo cc)
endif
PLUGIN_FLAGS := -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -MMD -MP \
  -I$(PLUGIN_SRC) -I$(PLUGIN_SRC)/../include
PLUGIN_CFLAGS := $(PLUGIN_FLAGS) -std=c11
PLUGIN_CXXFLAGS := $(PLUGIN_FLAGS) -std=c++17 -fno-exceptions -fno-rtti -fno-threadsafe-statics
# The C driver links, so that no C++ runtime is needed: a plugin depends on libc and libm alone.
# The build id tells the tuner whether a plugin is still the one it measured.
PLUGIN_LDFLAGS := -shared -Wl,-z,defs -Wl,-z,now -Wl,--as-needed -Wl,--build-id -Wl,--version-script=$(PLUGIN_SRC)/_kit/plugin.map
PLUGIN_FOLDERS := $(patsubst $(PLUGIN_SRC)/%/,%,$(sort $(dir $(wildcard $(PLUGIN_SRC)/[!_]*/plugin.c*))))

.PHONY: plugins template kit-test
plugins: $(PLUGIN_FOLDERS:%=$(PLUGIN_DIR)/attune_%.so)
template: $(TEMPLATE_DIR)/attune_template.so

# $(1) folder, $(2) operator id, $(3) output directory. A mapped .so must never be truncated: link aside, then rename.
define PLUGIN_RULES
$(3)/attune_$(2).so: $(PLUGIN_SRC)/_kit/plugin.map \
    $(patsubst $(PLUGIN_SRC)/%,$(PLUGIN_OBJ)/%.o,$(wildcard $(PLUGIN_SRC)/$(1)/*.c $(PLUGIN_SRC)/$(1)/*.cpp))
	@mkdir -p $$(@D)
	$$(CC) $$(filter %.o,$$^) $$(PLUGIN_LDFLAGS) -o $$@.tmp -lm && mv -f $$@.tmp $$@
$(PLUGIN_OBJ)/$(1)/%.c.o: $(PLUGIN_SRC)/$(1)/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(PLUGIN_CFLAGS) -DATTUNE_FOLDER='"$(2)"' -c $$< -o $$@
$(PLUGIN_OBJ)/$(1)/%.cpp.o: $(PLUGIN_SRC)/$(1)/%.cpp
	@mkdir -p $$(@D)
	$$(CXX) $$(PLUGIN_CXXFLAGS) -DATTUNE_FOLDER='"$(2)"' -c $$< -o $$@
endef
$(foreach f,$(PLUGIN_FOLDERS),$(eval $(call PLUGIN_RULES,$(f),$(f),$(PLUGIN_DIR))))
$(eval $(call PLUGIN_RULES,_template,template,$(TEMPLATE_DIR)))
-include $(wildcard $(PLUGIN_OBJ)/*/*.d)

# Unit tests of the toolkit, once per instruction set of this CPU.
$(PLUGIN_OBJ)/_kit/kit_test: $(PLUGIN_SRC)/_kit/tests/kit_test.cpp $(wildcard $(PLUGIN_SRC)/_kit/*.h)
	@mkdir -p $(@D)
	$(CXX) $(PLUGIN_CXXFLAGS) $< -o $@ -lm
kit-test: $(PLUGIN_OBJ)/_kit/kit_test
	$<
