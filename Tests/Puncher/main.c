/*
 * Another process that holds the guest's RAM, as QEMU does: it discards, writes and moves pages.
 * usage: puncher FILE [CONTROL]; requests come on standard input, an errno or 0 goes back for each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct request {
	uint32_t what;
	uint32_t byte;
	uint64_t offset, count;
};

enum { PUNCH = 1, FILL = 2, REMOVE = 3, DONTNEED = 4, HAMMER = 5, MOVE = 6 };

static int fd;
static unsigned char *ram;
static uint64_t size;
/* For each page: how many punches were begun, then how many were finished. */
static uint32_t *begun, *done;

static int punch(uint64_t offset, uint64_t count)
{
	int r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			  (off_t)count);
	return r < 0 ? errno : 0;
}

/* Punches single pages at random, and rewrites two of three. */
static int hammer(uint64_t seed, uint64_t times)
{
	uint64_t pages = size / 4096, x = seed * 2 + 1;
	for (uint64_t i = 0; i < times; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		uint64_t page = x % pages;
		if (begun)
			__atomic_add_fetch(&begun[page], 1, __ATOMIC_SEQ_CST);
		int r = punch(page * 4096, 4096);
		if (r)
			return r;
		if (done)
			__atomic_add_fetch(&done[page], 1, __ATOMIC_SEQ_CST);
		if (x >> 32 & 3)
			memset(ram + page * 4096, (int)(x >> 40), 4096);
	}
	return 0;
}

/* move_pages(2) to a node, also of pages that others have mapped; the kernel skips what is pinned. */
static int move(uint64_t offset, uint64_t count, int node)
{
	uint64_t pages = count / 4096;
	void **addresses = calloc(pages, sizeof *addresses);
	int *nodes = calloc(pages, sizeof *nodes), *status = calloc(pages, sizeof *status);
	long r = -1;
	if (addresses && nodes && status) {
		for (uint64_t i = 0; i < pages; i++) {
			volatile unsigned char *page = ram + offset + i * 4096;
			(void)*page; /* only what is mapped here is moved */
			addresses[i] = (void *)page;
			nodes[i] = node;
		}
		r = syscall(SYS_move_pages, 0, pages, addresses, nodes, status, 4 /* MPOL_MF_MOVE_ALL */);
	}
	int code = r < 0 ? errno : 0;
	free(addresses);
	free(nodes);
	free(status);
	return code;
}

static int serve(const struct request *r)
{
	switch (r->what) {
	case PUNCH:
		return punch(r->offset, r->count);
	case FILL:
		memset(ram + r->offset, (int)r->byte, r->count);
		return 0;
	case REMOVE:
		return madvise(ram + r->offset, r->count, MADV_REMOVE) < 0 ? errno : 0;
	case DONTNEED:
		return madvise(ram + r->offset, r->count, MADV_DONTNEED) < 0 ? errno : 0;
	case HAMMER:
		return hammer(r->offset, r->count);
	case MOVE:
		return move(r->offset, r->count, (int)r->byte);
	default:
		return EINVAL;
	}
}

int main(int argc, char **argv)
{
	struct stat st;
	if (argc < 2 || (fd = open(argv[1], O_RDWR)) < 0 || fstat(fd, &st) < 0) {
		perror("puncher");
		return 1;
	}
	size = (uint64_t)st.st_size;
	ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (ram == MAP_FAILED) {
		perror("puncher: mmap");
		return 1;
	}
	if (argc > 2) {
		int control = open(argv[2], O_RDWR);
		size_t bytes = size / 4096 * 4;
		begun = mmap(NULL, bytes * 2, PROT_READ | PROT_WRITE, MAP_SHARED, control, 0);
		if (begun == MAP_FAILED) {
			perror("puncher: control");
			return 1;
		}
		done = begun + bytes / 4;
	}
	struct request request;
	while (read(0, &request, sizeof request) == sizeof request) {
		int32_t answer = serve(&request);
		if (write(1, &answer, sizeof answer) != sizeof answer)
			return 1;
	}
	return 0;
}
