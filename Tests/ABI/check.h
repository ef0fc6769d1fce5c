/* A small frame for C tests. `program PLUGIN_DIRECTORY NAME` runs one test, without NAME all of them; test_programs.py
 * finds the names in the sources and runs each in a process of its own, so that a crash fails one test. */
#ifndef CHECK_H
#define CHECK_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test {
  const char *name;
  void (*run)(void);
  struct test *next;
} test;
static test *all_tests;
static const char *plugin_directory;

#define TEST(title)                                                 \
  static void title(void);                                          \
  __attribute__((constructor)) static void register_##title(void) { \
    static test t = {#title, title, NULL};                          \
    t.next = all_tests, all_tests = &t;                             \
  }                                                                 \
  static void title(void)

/* Ends the process with what was expected, so that nothing runs on after a failure. */
#define CHECK(condition, ...)                                         \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__), fputc('\n', stderr);              \
      exit(1);                                                        \
    }                                                                 \
  } while (0)
#define CHECK_INT(got, want)                                            \
  do {                                                                  \
    const long long got_ = (long long)(got), want_ = (long long)(want); \
    CHECK(got_ == want_, #got " is %lld, expected %lld", got_, want_);  \
  } while (0)

int main(int argc, char **argv) {
  int ran = 0;
  if (argc < 2) return fprintf(stderr, "usage: %s PLUGIN_DIRECTORY [TEST]\n", argv[0]), 2;
  plugin_directory = argv[1];
  for (test *t = all_tests; t; t = t->next)
    if (argc < 3 || !strcmp(argv[2], t->name)) t->run(), ran++;
  if (!ran) return fprintf(stderr, "no test %s\n", argc < 3 ? "" : argv[2]), 2;
  return 0;
}
#endif
