/* The rate of fused multiply-adds that never leave the registers: what a kernel is compared with.
 *
 * fma_rate THREADS SECONDS CORE...  prints GFLOP/s of all threads together, each on its own core. The rate is
 * of the quickest slice, so another process on the same core does not lower it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
enum { BYTES = 64 };
#else
enum { BYTES = 32 };
#endif
typedef float vector __attribute__((vector_size(BYTES)));

enum { CHAINS = 12, TURNS = 200000, LANES = BYTES / 4 };

struct work {
  int core;
  double seconds, rate;
  float sink;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static vector slice(vector factor, vector term) {
  vector a = term, b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5;
  vector g = a + 6, h = a + 7, i = a + 8, j = a + 9, k = a + 10, l = a + 11;
  for (int turn = 0; turn < TURNS; turn++) {
    a = a * factor + term, b = b * factor + term, c = c * factor + term, d = d * factor + term;
    e = e * factor + term, f = f * factor + term, g = g * factor + term, h = h * factor + term;
    i = i * factor + term, j = j * factor + term, k = k * factor + term, l = l * factor + term;
    /* Nothing is known of any of them from one turn to the next. */
    __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f));
    __asm__ volatile("" : "+x"(g), "+x"(h), "+x"(i), "+x"(j), "+x"(k), "+x"(l));
  }
  return a + b + c + d + e + f + g + h + i + j + k + l;
}

static void *run(void *given) {
  struct work *work = given;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(work->core, &cores);
  pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
  volatile float factor = 0.999f, term = 0.001f;
  double end = now() + work->seconds;
  do {
    double start = now();
    vector sum = slice(factor - (vector){0}, term - (vector){0});
    double rate = 2.0 * CHAINS * LANES * TURNS / (now() - start) * 1e-9;
    work->sink += sum[0];
    if (rate > work->rate) work->rate = rate;
  } while (now() < end);
  return NULL;
}

int main(int count, char **words) {
  int threads = count > 2 ? atoi(words[1]) : 0;
  if (threads < 1 || threads > 64 || count < 3 + threads) return 2;
  struct work work[64] = {0};
  pthread_t ids[64];
  for (int t = 0; t < threads; t++) {
    work[t].core = atoi(words[3 + t]);
    work[t].seconds = atof(words[2]);
    if (pthread_create(&ids[t], NULL, run, &work[t])) return 1;
  }
  double rate = 0;
  for (int t = 0; t < threads; t++) {
    pthread_join(ids[t], NULL);
    rate += work[t].rate;
  }
  printf("%.2f\n", rate);
  return 0;
}
