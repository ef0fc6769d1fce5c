/* Prints what the functions of attune/helpers.h compute: helpers alibi HEADS | decay RULE HEADS LAYER LAYERS |
 * tables HEIGHT WIDTH CHANNELS. After a refusal: the code and the argument, if nothing was written. */
#include <attune/helpers.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 4096 };

static int refused(attune_status status, const attune_error *e, const float *memory) {
  for (int i = 0; i < ROOM; i++) {
    if (memory[i] != -7) return 2;
  }
  printf("%d %s\n", (int)status, e->argument);
  return 0;
}

int main(int count, char **words) {
  static float a[ROOM], b[ROOM];
  int64_t n[4] = {0, 0, 0, 0}, written = 0;
  int tables = 0;
  attune_error e = ATTUNE_ERROR;
  attune_status status;
  for (int i = 0; i < ROOM; i++) a[i] = b[i] = -7;
  for (int i = 2; i < count && i < 6; i++) n[i - 2] = atoll(words[i]);
  if (count == 3 && !strcmp(words[1], "alibi")) {
    status = attune_alibi_slopes(n[0], a, &e), written = n[0];
  } else if (count == 6 && !strcmp(words[1], "decay")) {
    status = attune_decay_slopes((int32_t)n[0], n[1], n[2], n[3], a, &e), written = n[1];
  } else if (count == 5 && !strcmp(words[1], "tables")) {
    status = attune_rotary_tables_2d(n[0], n[1], n[2], a, b, &e), written = n[0] * n[1] * n[2], tables = 1;
  } else {
    return 1;
  }
  if (status != ATTUNE_OK) return refused(status, &e, a);
  if (written >= ROOM || a[written] != -7 || b[tables ? written : 0] != -7) return 3;
  for (int64_t i = 0; i < written; i++) printf("%.9g\n", (double)a[i]);
  for (int64_t i = 0; tables && i < written; i++) printf("%.9g\n", (double)b[i]);
  return 0;
}
