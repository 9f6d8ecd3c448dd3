// SPDX-License-Identifier: Apache-2.0
/*
 * Dirties memory at a steady pace and knows what each page must hold: the load that moves are measured with.
 * Each page is checked before it is written again, and all of them when `look --check` asks.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "load.h"
#include "progress.h"

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
#define STEP_NS (5 * 1000 * 1000)
/* A pause of the machine is not made up for: that would be a burst which no steady program has. */
#define MOST_STEPS_AT_ONCE 4

struct set {
	uint64_t (*pages)[PAGE_WORDS];
	/* `dirtied` of them are written again and again, in order; the others once. */
	uint64_t all, dirtied;
	/* Whole pages of bytes that no compressor makes smaller, or one word in a page of zeros. */
	int whole;
	uint64_t sweep, next;
};

/* The seed of what a page holds now. */
static uint64_t seed_of(const struct set *s, uint64_t page)
{
	return 1 + (page >= s->dirtied ? 0 : s->sweep - (page >= s->next));
}

static void write_page(struct set *s, uint64_t page, uint64_t seed)
{
	if (s->whole && page < s->dirtied)
		pattern_fill(seed, page * PAGE_WORDS, s->pages[page], PAGE_WORDS);
	else
		s->pages[page][page % PAGE_WORDS] = pattern_word(seed, page);
}

static int is_right(const struct set *s, uint64_t page)
{
	uint64_t should[PAGE_WORDS] = { 0 };

	if (s->whole && page < s->dirtied)
		pattern_fill(seed_of(s, page), page * PAGE_WORDS, should, PAGE_WORDS);
	else
		should[page % PAGE_WORDS] = pattern_word(seed_of(s, page), page);
	return memcmp(should, s->pages[page], PAGE_BYTES) == 0;
}

static void check_page(const struct set *s, uint64_t page, struct progress *p)
{
	if (!is_right(s, page))
		progress_wrong(p, "page %llu of %llu is not what was written in sweep %llu", (unsigned long long)page, (unsigned long long)s->all, (unsigned long long)s->sweep);
}

static struct set make_set(uint64_t touchedBytes, uint64_t dirtiedBytes, int whole)
{
	struct set s = { .all = touchedBytes / PAGE_BYTES, .dirtied = dirtiedBytes / PAGE_BYTES, .whole = whole, .sweep = 1 };

	s.pages = mmap(NULL, s.all * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s.pages == MAP_FAILED || s.dirtied < 1 || s.all < s.dirtied)
		fail("--mib and --touch-mib: no such memory");
	for (uint64_t page = 0; page < s.all; page++)
		write_page(&s, page, 1);
	/* All have been written in sweep 0, the first of them is the next. */
	return s;
}

static void dirty_next(struct set *s, struct progress *p)
{
	check_page(s, s->next, p);
	write_page(s, s->next, 1 + s->sweep);
	p->count++;
	if (++s->next < s->dirtied)
		return;
	s->next = 0;
	s->sweep++;
}

static void answer_check(const struct set *s, struct progress *p)
{
	uint64_t asked = p->asked;

	if (p->checked >= asked)
		return;
	for (uint64_t page = 0; page < s->all; page++)
		check_page(s, page, p);
	p->checked = asked;
}

int dirty_main(const struct args *args)
{
	double dirtiedMib = args_number(args, "--mib", 32), touchedMib = args_number(args, "--touch-mib", dirtiedMib);
	double pagesPerStep = args_number(args, "--mib-per-s", 4) * (1 << 20) / PAGE_BYTES * STEP_NS / 1e9, due = 0;
	struct progress *p = progress_make(args_text(args, "--state"));
	struct set s = make_set(touchedMib * (1 << 20), dirtiedMib * (1 << 20), args_flag(args, "--whole"));
	struct timespec step = { 0, STEP_NS };
	struct ticker ticker;
	uint64_t now, last;

	p->bytes = s.dirtied * PAGE_BYTES;
	p->address = (uintptr_t)s.pages;
	ticker_start(&ticker, args_number(args, "--seconds", 0), LINE_MS);
	for (last = monotonic_ns(); !ticker_over(&ticker); last = now) {
		double steps;

		nanosleep(&step, NULL);
		now = monotonic_ns();
		steps = (double)(now - last) / STEP_NS;
		due += pagesPerStep * (steps < MOST_STEPS_AT_ONCE ? steps : MOST_STEPS_AT_ONCE);
		for (; due >= 1; due--)
			dirty_next(&s, p);
		answer_check(&s, p);
		if (ticker_due(&ticker))
			printf("{\"ok\":true,\"count\":%llu}\n", (unsigned long long)p->count);
	}
	answer_check(&s, p);
	return 0;
}
