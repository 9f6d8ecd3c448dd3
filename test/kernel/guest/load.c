/*
 * A guest's programs, for tests of moves: each checks something that a move could
 * damage, for ever, and the parent counts.  `load STATUS`: STATUS gets a line with a count per
 * check, or what went wrong, and stays so.  Runs until it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECKS 9
static const char *const names[CHECKS] = { "sum", "pipe", "exec", "avx", "base", "clock", "timer", "thread", "signal" };

static struct shared {
	_Atomic uint64_t count[CHECKS];
	_Atomic int failed;
	char why[256];
} *shared;

static void fail(const char *fmt, ...)
{
	va_list args;

	if (shared->failed++)
		_exit(1);
	va_start(args, fmt);
	vsnprintf(shared->why, sizeof(shared->why), fmt, args);
	va_end(args);
	_exit(1);
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		fail("clock_gettime: %s", strerror(errno));
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void pause_ms(int ms)
{
	struct timespec t = { 0, ms * 1000000L };

	nanosleep(&t, NULL);
}

/* 4 MB of memory and a tmpfs file hold what they were given. */
static void sum(_Atomic uint64_t *count)
{
	enum { WORDS = 1 << 19 };
	uint64_t *words = malloc(WORDS * 8), *back = malloc(WORDS * 8), seed = 1, i;
	int fd = open("/tmp/sum", O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (;; (*count)++) {
		for (i = 0; i < WORDS; i++)
			words[i] = seed * 0x9e3779b97f4a7c15ULL + i * i;
		if (pwrite(fd, words, WORDS * 8, 0) != WORDS * 8)
			fail("sum: write: %s", strerror(errno));
		pause_ms(5);
		if (pread(fd, back, WORDS * 8, 0) != WORDS * 8)
			fail("sum: read: %s", strerror(errno));
		for (i = 0; i < WORDS; i++)
			if (words[i] != seed * 0x9e3779b97f4a7c15ULL + i * i || back[i] != words[i])
				fail("sum: word %lu is %lx and %lx", i, words[i], back[i]);
		seed++;
	}
}

/* Each byte comes back, once and in order. */
static void pipe_echo(_Atomic uint64_t *count)
{
	uint32_t to, from;
	int there[2], back[2];

	if (pipe(there) || pipe(back))
		fail("pipe: %s", strerror(errno));
	if (!fork()) {
		while (read(there[0], &to, 4) == 4)
			if (write(back[1], &to, 4) != 4)
				break;
		_exit(0);
	}
	for (to = 0;; to++, (*count)++) {
		if (write(there[1], &to, 4) != 4 || read(back[0], &from, 4) != 4 || from != to)
			fail("pipe: sent %u, got %u", to, from);
		if (!(to & 15))
			pause_ms(1);
	}
}

static void exec_true(_Atomic uint64_t *count)
{
	int status;

	for (;; (*count)++) {
		int pid = fork();

		if (!pid) {
			execl("/proc/self/exe", "load", "--exit", "42", NULL);
			_exit(1);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 42)
			fail("exec: pid %d, status %x", pid, status);
		pause_ms(3);
	}
}

/* All 16 vector registers, MXCSR and the x87 control word, held over spinning and over system calls. */
__attribute__((target("avx"))) static void avx(_Atomic uint64_t *count)
{
	uint64_t in[64] __attribute__((aligned(32))), out[64] __attribute__((aligned(32))), seed = 1;
	unsigned int mxcsr, want = 0x1f80 | 0x6000, i;
	unsigned short fcw, want_fcw = 0x27f;

	asm volatile ("ldmxcsr %0" : : "m" (want));
	asm volatile ("fldcw %0" : : "m" (want_fcw));
	for (;; seed++) {
		(*count)++;
		for (i = 0; i < 64; i++)
			in[i] = seed * 0x2545f4914f6cdd1dULL + i;
		asm volatile (
			".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			"vmovdqa \\r*32(%0), %%ymm\\r\n"
			".endr\n"
			"mov $300000, %%rcx\n"
			"1: dec %%rcx; jnz 1b\n"
			"mov $39, %%eax; syscall\n"
			".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
			"vmovdqa %%ymm\\r, \\r*32(%1)\n"
			".endr\n"
			: : "r" (in), "r" (out) : "rax", "rcx", "r11", "memory",
			  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
			  "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
		if (memcmp(in, out, sizeof(in)))
			fail("avx: a register changed");
		asm volatile ("stmxcsr %0" : "=m" (mxcsr));
		asm volatile ("fnstcw %0" : "=m" (fcw));
		if ((mxcsr & 0xffc0) != want || fcw != want_fcw)
			fail("avx: mxcsr %x, fcw %x", mxcsr, fcw);
	}
}

/* gs base set by instruction, fs base (libc's) by the kernel. */
static void base(_Atomic uint64_t *count)
{
	uint64_t seed = 0x1000, fs, fs_now, gs;

	if (!(getauxval(AT_HWCAP2) & 2))
		for (;; (*count)++)
			pause_ms(100);
	asm volatile ("rdfsbase %0" : "=r" (fs));
	for (;; (*count)++) {
		asm volatile ("wrgsbase %0" : : "r" (seed));
		for (int i = 0; i < 100; i++) {
			for (volatile int spin = 0; spin < 3000; spin++)
				;
			if (i % 10 == 9)
				pause_ms(1);
			asm volatile ("rdgsbase %0" : "=r" (gs));
			asm volatile ("rdfsbase %0" : "=r" (fs_now));
			if (gs != seed || fs_now != fs)
				fail("base: gs %lx not %lx, fs %lx not %lx", gs, seed, fs_now, fs);
		}
		seed += 0x1000;
	}
}

/* Monotonic clocks never go back, nor forward by more than a busy host explains. */
static void clocks(_Atomic uint64_t *count)
{
	uint64_t mono = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME), mono_now, boot_now;

	for (;; (*count)++) {
		pause_ms(2);
		mono_now = now(CLOCK_MONOTONIC);
		boot_now = now(CLOCK_BOOTTIME);
		if (mono_now < mono || boot_now < boot)
			fail("clock: went back by %lu, %lu ns", mono - mono_now, boot - boot_now);
		if (mono_now - mono > 5000000000ULL)
			fail("clock: CLOCK_MONOTONIC jumped by %lu ns", mono_now - mono);
		mono = mono_now;
		boot = boot_now;
	}
}

/* An interval timer's expirations are those of the clock. */
static void timers(_Atomic uint64_t *count)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t started = now(CLOCK_MONOTONIC), first = started + 10000000, total = 0;
	struct itimerspec every = { { 0, 10000000 }, { first / 1000000000, first % 1000000000 } };
	uint64_t n, before, after;

	/* By the clock: between the two lines above and this one a busy host may let pass what it likes. */
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &every, NULL);
	for (;; (*count)++) {
		before = (now(CLOCK_MONOTONIC) - started) / 10000000;
		if (read(fd, &n, 8) != 8)
			fail("timer: read: %s", strerror(errno));
		total += n;
		after = (now(CLOCK_MONOTONIC) - started) / 10000000;
		if (total > after + 1 || total + 1 < before)
			fail("timer: %lu expirations in %lu to %lu periods", total, before, after);
	}
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;
static __thread uint64_t own;

static void *take_turns(void *arg)
{
	int me = (long)arg;
	_Atomic uint64_t *count = &shared->count[7];

	for (own = me;; own += 2) {
		pthread_mutex_lock(&lock);
		while (turn != me)
			pthread_cond_wait(&turned, &lock);
		turn = !me;
		pthread_cond_broadcast(&turned);
		pthread_mutex_unlock(&lock);
		if ((own & 1) != (uint64_t)me)
			fail("thread: %d has the other's variable", me);
		(*count)++;
		if (!(own & 62))
			pause_ms(1);
	}
	return NULL;
}

static void threads(_Atomic uint64_t *count)
{
	pthread_t other;

	(void)count;
	if (pthread_create(&other, NULL, take_turns, (void *)1L))
		fail("thread: cannot make one");
	take_turns((void *)0L);
}

static volatile uint64_t handled;

static void handler(int sig)
{
	(void)sig;
	handled++;
}

/* Signal frames that are on the stack while the guest moves. */
static void signals(_Atomic uint64_t *count)
{
	struct sigaction action = { .sa_handler = handler };
	struct timespec often = { 0, 3000000 };
	struct itimerspec every = { often, often };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	volatile double x = 1.5;
	timer_t timer;

	sigaction(SIGUSR1, &action, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
		fail("signal: no timer");
	for (;;) {
		uint64_t before = handled;

		while (handled == before) {
			x = x * 2.0 - 1.5;
			if (x != 1.5)
				fail("signal: a register was lost");
		}
		*count = handled;
	}
}

static void (*const checks[CHECKS])(_Atomic uint64_t *) = {
	sum, pipe_echo, exec_true, avx, base, clocks, timers, threads, signals,
};

static void report(const char *path)
{
	char text[512], temporary[256];
	int i, fd, len = 0;

	if (shared->failed)
		len = snprintf(text, sizeof(text), "FAIL %s\n", shared->why);
	else
		for (i = 0; i < CHECKS; i++)
			len += snprintf(text + len, sizeof(text) - len, "%s=%lu%c", names[i],
					(unsigned long)shared->count[i], i + 1 < CHECKS ? ' ' : '\n');
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, text, len) != len || close(fd) || rename(temporary, path))
		exit(1);
}

int main(int argc, char **argv)
{
	int i, status;

	if (argc == 3 && !strcmp(argv[1], "--exit"))
		return atoi(argv[2]);
	if (argc != 2)
		return 64;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < CHECKS; i++)
		if (!fork()) {
			checks[i](&shared->count[i]);
			_exit(1);
		}
	for (;;) {
		if (waitpid(-1, &status, WNOHANG) > 0 && !shared->failed) {
			snprintf(shared->why, sizeof(shared->why), "a check ended with status %x", status);
			shared->failed = 1;
		}
		report(argv[1]);
		pause_ms(50);
	}
}
