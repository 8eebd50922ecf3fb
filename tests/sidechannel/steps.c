/* Steps of a compiled job in this process, for valgrind to watch:

     steps ENGINE KERNELS FOLDER RECORDS STEPS

   opens the engine with FOLDER's plan.cbor, params.bin and records.bin (RECORDS of them) and runs STEPS steps. All records
   are secret, which here means undefined; the engine marks its keys itself (benchmarks/native, feature memcheck). Nothing
   that is made of them is ever declared public but by the engine. Answers 0 if everything ran. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <valgrind/memcheck.h>

struct bytes {
  unsigned char *start;
  size_t count;
};

static void fail(const char *what) {
  fprintf(stderr, "steps: %s\n", what);
  _exit(2);
}

static struct bytes contents(const char *folder, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) fail(path);
  struct bytes read = {NULL, (size_t)ftell(file)};
  read.start = malloc(read.count ? read.count : 1);
  rewind(file);
  if (!read.start || fread(read.start, 1, read.count, file) != read.count) fail(path);
  fclose(file);
  return read;
}

static void *library(const char *path) {
  void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!opened) fail(dlerror());
  return opened;
}

static void *named(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) fail(name);
  return found;
}

int main(int count, char **words) {
  if (count != 6) fail("expected ENGINE KERNELS FOLDER RECORDS STEPS");
  if (!RUNNING_ON_VALGRIND) fail("not under valgrind: nothing would be checked");
  void *engine = library(words[1]), *kernels = library(words[2]);
  struct bytes plan = contents(words[3], "plan.cbor");
  struct bytes params = contents(words[3], "params.bin");
  struct bytes records = contents(words[3], "records.bin");
  VALGRIND_MAKE_MEM_UNDEFINED(records.start, records.count);

  void *callbacks[5];
  ((void (*)(void **))named(engine, "myelin_callbacks"))(callbacks);
  ((void (*)(void **))named(kernels, "myelin_set_callbacks"))(callbacks);
  typedef void *open_fn(const void *, size_t, const void *, size_t, const void *, size_t, size_t);
  typedef int accept_fn(void *, const void *, size_t);
  typedef int begin_fn(void *, uint32_t);
  typedef int step_fn(void *, size_t);
  void *table = named(kernels, "myelin_kernel_table");
  size_t kernel_count = *(unsigned long *)named(kernels, "myelin_kernel_count");
  void *steps = ((open_fn *)named(engine, "myelin_open"))(plan.start, plan.count, params.start,
                                                          params.count, table, kernel_count, 1);
  if (!steps) fail("the engine refused the plan");
  if (((accept_fn *)named(engine, "myelin_accept"))(steps, records.start, records.count))
    fail("the engine refused the records");
  if (((begin_fn *)named(engine, "myelin_begin"))(steps, (uint32_t)atoi(words[4])))
    fail("training did not begin");
  for (int step = atoi(words[5]); step > 0; --step)
    if (((step_fn *)named(engine, "myelin_step"))(steps, 0)) fail("a step failed");
  /* Without what libraries do at the end, which is not the subject. */
  _exit(0);
}
