// An image with the interface of docs/abi.md and none of its purpose: tests ask it to behave or to misbehave.
//
// A request is one byte, the order, and its argument. What is not an order is echoed.
#include <stdint.h>

#define MESSAGE_BYTES (1u << 20)
#ifndef ABI_VERSION
#define ABI_VERSION 1
#endif
#ifndef TARGET
#define TARGET "x86-64-v3"
#endif
#ifndef ARENA_BYTES
#define ARENA_BYTES 4096
#endif

enum { REPLY = 0, IDLE = 1, REFUSED = 3, DEAD = 4 };

struct shared {
  uint64_t request_len, reply_len, reserved[510];
  uint8_t request[MESSAGE_BYTES], reply[MESSAGE_BYTES];
};

// {"target": TARGET}, and another key before it that has to be skipped.
__asm__(".pushsection .myelin.manifest,\"\",@progbits\n"
        ".byte 0xa2, 0x65\n .ascii \"about\"\n .byte 0x82, 0x20, 0xfb, 1,2,3,4,5,6,7,8\n"
        ".byte 0x66\n .ascii \"target\"\n .byte 0x60 + (2f - 1f)\n 1: .ascii \"" TARGET "\"\n 2:\n .popsection");

// Where the writable data begins: what a report is for.
__attribute__((section(".data.report_data"), aligned(128), used)) static uint8_t report_data[64] = {0};

static uint8_t arena[ARENA_BYTES];
static volatile uint64_t entries[16];
static uint8_t launch[64];
static uint64_t launch_len, dead;

static void copy(uint8_t *to, const uint8_t *from, uint64_t count) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

static long system_call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

static uint64_t address(const uint8_t *request) {
  uint64_t value;
  copy((uint8_t *)&value, request + 1, 8);
  return value;
}

static uint64_t obey(struct shared *shared) {
  const uint8_t *request = shared->request;
  uint8_t *reply = shared->reply;
  uint64_t length = shared->request_len;
  if (length > MESSAGE_BYTES) {  // [1, 101, ""], as the real image refuses it
    copy(reply, (const uint8_t *)"\x83\x01\x18\x65\x60", 5);
    return 5;
  }
  static const char path[] = "/etc/passwd";
  switch (length ? request[0] : 0) {
    case 'C':  // a system call, by number
      system_call(request[1] | request[2] << 8 | request[3] << 16 | (long)request[4] << 24, (long)path, 0, 0, 0);
      return 0;
    case '8':  // a system call of the 32-bit kind: getpid
      __asm__ volatile("int $0x80" ::"a"(20) : "memory");
      return 0;
    case 'P':  // write to a descriptor that is not the messages'
      system_call(1, request[1], (long)path, 4, 0);
      return 0;
    case 'M':  // more memory: mmap(NULL, 4096, RWX, private anonymous)
      system_call(9, 0, 4096, 7, 0x22);
      return 0;
    case 'R':  // read from a descriptor that is not the messages'
      system_call(0, request[1], (long)arena, 16, 0);
      return 0;
    case 'F':  // for ever
      for (;;) __asm__ volatile("pause");
    case 'W':  // a write where nothing is
      *(volatile uint64_t *)0x7ff00000 = 1;
      return 0;
    case 'X':  // a write into its own code
      *(volatile uint8_t *)0x10000000 = 1;
      return 0;
    case 'J':  // code in data
      arena[0] = 0xc3;
      ((void (*)(void))arena)();
      return 0;
    case 'T':  // the clock
      __asm__ volatile("rdtsc" ::: "rax", "rdx");
      return 0;
    case 'I':  // an instruction that no processor has
      __asm__ volatile("ud2");
      return 0;
    case 'U':  // a read of an address
      reply[0] = *(volatile uint8_t *)address(request);
      return 1;
    case 'V':  // a write to an address
      *(volatile uint8_t *)address(request) = 0;
      return 0;
    case 'K':  // code at an address
      ((void (*)(void))address(request))();
      return 0;
    case 'O':  // output to a port
      __asm__ volatile("outb %%al, %%dx" ::"a"(0), "d"(request[1]));
      return 0;
    case 'H':  // halt until something happens
      __asm__ volatile("hlt");
      return 0;
    case 'L':  // the launch message
      copy(reply, launch, launch_len);
      return launch_len;
    case 'N': {  // wait until as many slots as asked have been in, then say which
      for (;;) {
        int seen = 0;
        for (int slot = 0; slot < 16; slot++) seen += entries[slot] != 0;
        if (seen >= request[1]) break;
        __asm__ volatile("pause");
      }
      for (int slot = 0; slot < 16; slot++) reply[slot] = entries[slot] != 0;
      return 16;
    }
    case 'A':  // touch the whole arena
      for (uint64_t i = 0; i < ARENA_BYTES; i += 4096) *(volatile uint8_t *)(arena + i) = 1;
      return 0;
    case 'E':  // evidence for 64 bytes is wanted: [2, bytes]
      copy(report_data, request + 1, 64);
      copy(reply, (const uint8_t *)"\x82\x02\x58\x40", 4);
      copy(reply + 4, report_data, 64);
      return 68;
    case 'B':  // a length that no reply has
      return (uint64_t)MESSAGE_BYTES + 1;
    case 'D':
      dead = 1;
      copy(reply, (const uint8_t *)"\x83\x01\x19\x03\x85\x60", 6);
      return 6;
    default:
      copy(reply, request, length);
      return length;
  }
}

__attribute__((sysv_abi)) uint64_t enter(uint64_t slot, struct shared *shared) {
  if (slot >= 16) return REFUSED;
  entries[slot]++;
  if (slot > 0) {
    for (int i = 0; i < 1000; i++) __asm__ volatile("pause");
    return dead ? DEAD : IDLE;
  }
  if (launch_len == 0) {
    launch_len = shared->request_len;
    copy(launch, shared->request, launch_len);
    static const uint8_t answer[] = {0x82, 0, ABI_VERSION};
    copy(shared->reply, answer, 3);
    shared->reply_len = 3;
    return REPLY;
  }
  int strange = shared->request_len == 1 && shared->request[0] == 'Q';
  shared->reply_len = obey(shared);
  return strange ? 77 : dead ? DEAD : REPLY;
}
