/* Show programs a processor without AVX-512, VNNI, bf16 and AMX, to time them as on one with AVX2.

   $ gcc -O1 -shared -fPIC -o avx2_only.so benchmarks/avx2_only.c
   $ LD_PRELOAD=./avx2_only.so python benchmarks/runtimes.py --threads 1 --processor "..."

Programs choose their kernels by the instruction CPUID. On Linux a process may ask that it traps
(arch_prctl, ARCH_SET_CPUID; x86-64 with `cpuid_fault` in /proc/cpuinfo); the handler here answers
for it and leaves the newer instruction sets out. Caches, clock and memory stay those of the
machine. The process exits with 99 where CPUID cannot trap. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static struct sigaction previous;

static long let_cpuid_run(int allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

/* Bits of Intel's manual, volume 2, CPUID: leaf 7 has the extensions, 0xd the states of registers,
   0x1d and 0x1e AMX, 0x24 AVX10. */
static void leave_out(uint32_t leaf, uint32_t subleaf, uint32_t *a, uint32_t *b, uint32_t *c,
                      uint32_t *d) {
  if (leaf == 7 && subleaf == 0) {
    /* avx512 f, dq, ifma, pf, er, cd, bw, vl */
    *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
    /* avx512 vbmi, vbmi2, vnni, bitalg, vpopcntdq */
    *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    /* avx512 4vnniw, 4fmaps, vp2intersect; amx bf16; avx512 fp16; amx tile, int8 */
    *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
  } else if (leaf == 7 && subleaf == 1) {
    /* avx vnni, avx512 bf16, amx fp16, avx ifma; in d avx vnni int8 and later sets */
    *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));
    *d = 0;
  } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
    *a = *b = *c = *d = 0;
  } else if (leaf == 0xd && subleaf == 0) {
    *a &= BIT(0) | BIT(1) | BIT(2); /* x87, SSE and AVX registers */
    *d = 0;
  }
}

static void answer_cpuid(int signal_number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
  (void)signal_number;
  (void)info;
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) {
    sigaction(SIGSEGV, &previous, 0); /* a real fault: it happens again, unhandled */
    return;
  }
  uint32_t leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
  let_cpuid_run(1);
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(subleaf));
  let_cpuid_run(0);
  leave_out(leaf, subleaf, &a, &b, &c, &d);
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer_cpuid;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous);
  if (let_cpuid_run(0) != 0) _exit(99);
}
