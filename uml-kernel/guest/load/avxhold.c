// SPDX-License-Identifier: Apache-2.0
/* Values that live in the vector registers only, for as long as a loop without any system call takes. */
#include <stdio.h>
#include <string.h>

#include "load.h"

#define REGISTERS 16
/* About a millisecond per turn: any freeze hits the loop, hardly ever the check. */
#define TURNS 1000000

struct vectors {
	uint64_t words[REGISTERS][4];
} __attribute__((aligned(32)));

#define EACH(op, a, b, c) op(0, a, b, c) op(1, a, b, c) op(2, a, b, c) op(3, a, b, c) op(4, a, b, c) op(5, a, b, c) op(6, a, b, c) op(7, a, b, c) \
	op(8, a, b, c) op(9, a, b, c) op(10, a, b, c) op(11, a, b, c) op(12, a, b, c) op(13, a, b, c) op(14, a, b, c) op(15, a, b, c)
#define LOAD(n, instruction, registers, unused) instruction " " #n "*32(%[in]), %%" registers #n "\n\t"
#define STORE(n, instruction, registers, unused) instruction " %%" registers #n ", " #n "*32(%[out])\n\t"

__attribute__((target("avx"))) static void hold_avx(const struct vectors *in, struct vectors *out, uint64_t turns)
{
	asm volatile(EACH(LOAD, "vmovdqa", "ymm", ) "1: dec %[turns]\n\tjnz 1b\n\t" EACH(STORE, "vmovdqa", "ymm", ) "vzeroupper"
		     : [turns] "+r"(turns)
		     : [in] "r"(in), [out] "r"(out)
		     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
		       "xmm14", "xmm15");
}

/* A guest that has been shown no AVX: the lower halves. */
static void hold_sse(const struct vectors *in, struct vectors *out, uint64_t turns)
{
	asm volatile(EACH(LOAD, "movdqa", "xmm", ) "1: dec %[turns]\n\tjnz 1b\n\t" EACH(STORE, "movdqa", "xmm", ) ""
		     : [turns] "+r"(turns)
		     : [in] "r"(in), [out] "r"(out)
		     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
		       "xmm14", "xmm15");
}

int avxhold_main(const struct args *args)
{
	int avx = __builtin_cpu_supports("avx"), width = avx ? 4 : 2;
	struct vectors in, out;
	struct ticker ticker;
	uint64_t count = 0;

	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	while (!ticker_over(&ticker)) {
		pattern_fill(count, 0, in.words[0], REGISTERS * 4);
		memset(&out, 0, sizeof(out));
		(avx ? hold_avx : hold_sse)(&in, &out, TURNS);
		for (int r = 0; r < REGISTERS; r++)
			if (memcmp(in.words[r], out.words[r], width * 8) != 0)
				report_wrong("register %d changed in turn %llu", r, (unsigned long long)count);
		count++;
		if (ticker_due(&ticker))
			printf("{\"ok\":true,\"count\":%llu,\"avx\":%s}\n", (unsigned long long)count, avx ? "true" : "false");
	}
	return 0;
}
