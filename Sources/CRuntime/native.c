/* Plain C kernels described by an argument list, called through libffi. */
#include "CRuntime.h"
#include <ffi.h>
#include <stdlib.h>

struct crt_cif {
  ffi_cif cif;
  uint32_t count;
  ffi_type *types[64];
};

crt_cif *crt_cif_create(const uint32_t *ctypes, uint32_t count) {
  crt_cif *c;
  uint32_t i;
  if (count > 64 || !(c = calloc(1, sizeof *c))) return NULL;
  c->count = count;
  for (i = 0; i < count; i++) switch (ctypes[i]) {
      case ATTUNE_C_I32: c->types[i] = &ffi_type_sint32; break;
      case ATTUNE_C_I64: c->types[i] = &ffi_type_sint64; break;
      case ATTUNE_C_F32: c->types[i] = &ffi_type_float; break;
      case ATTUNE_C_F64: c->types[i] = &ffi_type_double; break;
      case ATTUNE_C_PTR: c->types[i] = &ffi_type_pointer; break;
      default: free(c); return NULL;
    }
  if (ffi_prep_cif(&c->cif, FFI_DEFAULT_ABI, count, &ffi_type_sint32, c->types) != FFI_OK) {
    free(c);
    return NULL;
  }
  return c;
}

void crt_cif_release(crt_cif *cif) { free(cif); }

attune_status crt_native_call(const crt_cif *c, attune_native_fn fn, uint64_t *slots) {
  void *values[64];
  ffi_arg result = 0; /* narrow results come back register-wide */
  uint32_t i;
  for (i = 0; i < c->count; i++) values[i] = &slots[i];
  ffi_call((ffi_cif *)&c->cif, FFI_FN(fn), &result, values); /* libffi only reads the cif */
  return (attune_status)result;
}
