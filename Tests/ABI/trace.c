/* Single-steps two warm executions, the second with other sizes, and prints where they ran: one line
 * `ADDRESS COUNT FILE` per instruction, the address as FILE's symbol table counts. For test_hot_path.py. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "call.h"

enum { CAPACITY = 1 << 20, MAX_FILES = 64 };

/* The traced process: `on` is set around what counts. */
static void traced(volatile int32_t *on) {
  attune_context *context = make_context();
  call *c = make_call();
  set_sizes(c, 2, 2, 1, 2, 3, 3, 2); /* few steps in the kernel, all of them in the host */
  c->problem.kernel = getenv("ATTUNE_TEST_KERNEL");
  attune_plan *plan = make_plan(context, c);
  for (int i = 0; i < 3; i++) execute(plan, c);
  CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "this system does not let a process be traced");
  raise(SIGSTOP);
  *on = 1;
  const attune_status first = attune_plan_execute(plan, &c->bindings, &c->error);
  *on = 0;
  set_sizes(c, 1, 2, 1, 1, 2, 3, 2);
  *on = 1;
  const attune_status second = attune_plan_execute(plan, &c->bindings, &c->error);
  *on = 0;
  _exit(first || second);
}

static uint64_t program_counter(pid_t pid) {
  struct user_regs_struct registers;
  struct iovec v = {&registers, sizeof registers};
  CHECK(ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &v) == 0, "registers");
#if defined(__aarch64__)
  return registers.pc;
#else
  return registers.rip;
#endif
}

static int ascending(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Files mapped into the process: first and last address. */
typedef struct file {
  unsigned long begin, end;
  char path[512];
} file;
static int files_of(pid_t pid, file *files) {
  char path[64], line[1024];
  int n = 0;
  snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
  FILE *maps = fopen(path, "r");
  CHECK(maps, "%s", path);
  while (n < MAX_FILES && fgets(line, sizeof line, maps)) {
    file f = {0, 0, ""};
    if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %511s", &f.begin, &f.end, f.path) < 3) continue;
    if (n && !strcmp(files[n - 1].path, f.path))
      files[n - 1].end = f.end;
    else
      files[n++] = f;
  }
  fclose(maps);
  return n;
}

TEST(execution) {
  volatile int32_t *on = mmap(NULL, sizeof *on, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint64_t *at = malloc(CAPACITY * sizeof *at);
  static file files[MAX_FILES];
  size_t n = 0;
  int status = 0;
  CHECK(on != MAP_FAILED && at, "no memory");
  const pid_t pid = fork();
  CHECK(pid >= 0, "fork");
  if (!pid) traced(on);
  CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status), "the child did not stop: %x", status);
  const int n_files = files_of(pid, files);
  while (n < CAPACITY) {
    CHECK(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid, "single step");
    if (!WIFSTOPPED(status)) break;
    if (*on) at[n++] = program_counter(pid);
  }
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "after %zu steps: %x", n, status);
  qsort(at, n, sizeof *at, ascending);
  for (size_t i = 0, same; i < n; i += same) {
    for (same = 1; i + same < n && at[i + same] == at[i];) same++;
    for (int f = 0; f < n_files; f++)
      if (at[i] >= files[f].begin && at[i] < files[f].end)
        printf("%lx %zu %s\n", (unsigned long)(at[i] - files[f].begin), same, files[f].path);
  }
}
