/*
 * A whole frame consumer in C: prints what a producer tells and writes its first frame as PPM.
 *
 *   cc -std=c11 -D_GNU_SOURCE -I../Protocol/include -o consumer consumer.c
 *   ./consumer SOCKET [PICTURE.ppm [FRAMES]]        ends after FRAMES, or with the producer
 */
#include <errno.h>
#include <linux/dma-buf.h>
#include <pinhole_frames.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_BUFFERS 256

static struct buffer {
	struct pinhole_buffer_add add;
	uint8_t *pixels; /* NULL: the slot is free */
	int fd;
} buffers[MAX_BUFFERS];

static void fail(const char *what)
{
	fprintf(stderr, "consumer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void say(int sock, const void *message, size_t size)
{
	/* EPIPE: the producer has left; its last words are still to be read. */
	if (send(sock, message, size, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		fail("send");
}

/* Receives one packet and at most one descriptor, -1 if none came. */
static size_t listen_to(int sock, void *packet, size_t room, int *fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * PINHOLE_MAX_FDS)];
	} control;
	struct iovec iov = { packet, room };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
			      .msg_controllen = sizeof control.bytes };
	ssize_t n;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0)
		fail("recvmsg");
	*fd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(c), sizeof *fd);
	return msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? 0 : (size_t)n;
}

static struct buffer *find(uint32_t number, uint32_t generation)
{
	for (struct buffer *b = buffers; b < buffers + MAX_BUFFERS; b++)
		if (b->pixels && b->add.buffer == number && b->add.generation == generation)
			return b;
	return NULL;
}

static void add(const struct pinhole_buffer_add *add, int fd)
{
	struct buffer *b = buffers; /* a producer has no more than MAX_BUFFERS out */
	while (b < buffers + MAX_BUFFERS - 1 && b->pixels)
		b++;
	b->pixels = mmap(NULL, add->size, PROT_READ, MAP_SHARED, fd, 0);
	if (b->pixels == MAP_FAILED)
		fail("mmap");
	b->add = *add;
	b->fd = fd;
	printf("buffer %u.%u add %ux%u %.4s stride %u %s\n", add->buffer, add->generation,
	       add->width, add->height, (const char *)&add->fourcc, add->planes[0].stride,
	       add->flags & PINHOLE_BUFFER_DMABUF ? "dma-buf" : "copy");
}

static void let_go(int sock, const struct pinhole_buffer_remove *gone)
{
	struct buffer *b = find(gone->buffer, gone->generation);
	if (b) {
		munmap(b->pixels, b->add.size);
		close(b->fd);
		b->pixels = NULL;
	}
	printf("buffer %u.%u remove %u\n", gone->buffer, gone->generation, gone->reason);
	struct pinhole_buffer_closed closed = { { PINHOLE_BUFFER_CLOSED, sizeof closed },
						gone->buffer, gone->generation };
	say(sock, &closed, sizeof closed);
}

/* A dma-buf may need caches written back or dropped around the CPU's reading. */
static void cpu_access(const struct buffer *b, uint64_t when)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_READ | when };
	while (b->add.flags & PINHOLE_BUFFER_DMABUF && ioctl(b->fd, DMA_BUF_IOCTL_SYNC, &sync) < 0)
		if (errno != EINTR && errno != EAGAIN)
			fail("DMA_BUF_IOCTL_SYNC");
}

/* XR24 and AR24, B G R x in memory, are what Linux guests draw. */
static void write_ppm(const char *path, const struct buffer *b, struct pinhole_rect crop)
{
	FILE *out = fopen(path, "wb");
	if (!out)
		fail(path);
	fprintf(out, "P6\n%u %u\n255\n", crop.width, crop.height);
	cpu_access(b, DMA_BUF_SYNC_START);
	for (uint32_t y = crop.y; y < crop.y + crop.height; y++) {
		const uint8_t *p = b->pixels + b->add.planes[0].offset +
				   (size_t)y * b->add.planes[0].stride + (size_t)crop.x * 4;
		for (uint32_t x = 0; x < crop.width; x++, p += 4)
			fwrite((uint8_t[]){ p[2], p[1], p[0] }, 1, 3, out);
	}
	cpu_access(b, DMA_BUF_SYNC_END);
	if (fclose(out))
		fail(path);
}

static void look(int sock, const struct pinhole_frame *f, const char *picture)
{
	struct buffer *b = find(f->buffer, f->generation);
	printf("frame %u serial %llu buffer %u.%u damage %u,%u %ux%u\n", f->output,
	       (unsigned long long)f->serial, f->buffer, f->generation, f->damage[0].x,
	       f->damage[0].y, f->damage[0].width, f->damage[0].height);
	if (b && picture)
		write_ppm(picture, b, f->crop);
	struct pinhole_frame_done done = { { PINHOLE_FRAME_DONE, sizeof done },
					   f->output, PINHOLE_FENCE_NONE, f->serial, 0 };
	say(sock, &done, sizeof done);
}

int main(int argc, char **argv)
{
	const char *picture = argc > 2 ? argv[2] : NULL;
	long frames = argc > 3 ? atol(argv[3]) : -1;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (argc < 2 || strlen(argv[1]) >= sizeof to.sun_path) {
		fprintf(stderr, "usage: consumer SOCKET [PICTURE.ppm [FRAMES]]\n");
		return 2;
	}
	strcpy(to.sun_path, argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to) < 0)
		fail(argv[1]);
	struct pinhole_consumer_hello hello = { { PINHOLE_CONSUMER_HELLO, sizeof hello },
						.magic = PINHOLE_MAGIC,
						.min_version = 1, .max_version = 1,
						.name = "example consumer" };
	say(sock, &hello, sizeof hello);
	while (frames != 0) {
		union {
			struct pinhole_header header;
			struct pinhole_output output;
			struct pinhole_buffer_add add;
			struct pinhole_frame frame;
			struct pinhole_buffer_remove remove;
			struct pinhole_error error;
			char bytes[PINHOLE_MAX_MESSAGE];
		} m;
		int fd;
		size_t size = listen_to(sock, &m, sizeof m, &fd);
		if (size < sizeof m.header || m.header.size != size)
			return frames > 0; /* the end: too early if frames are missing */
		switch (m.header.type) {
		case PINHOLE_OUTPUT:
			printf("output %u %ux%u\n", m.output.output, m.output.width, m.output.height);
			break;
		case PINHOLE_BUFFER_ADD:
			add(&m.add, fd);
			fd = -1; /* kept */
			break;
		case PINHOLE_FRAME:
			look(sock, &m.frame, picture);
			picture = NULL;
			frames -= frames > 0;
			break;
		case PINHOLE_BUFFER_REMOVE:
			let_go(sock, &m.remove);
			break;
		case PINHOLE_ERROR:
			fprintf(stderr, "consumer: the producer says: %s\n", m.error.text);
			return m.error.code != PINHOLE_ERROR_SHUTDOWN || frames > 0;
		} /* PRODUCER_HELLO and CURSOR tell it nothing */
		if (fd >= 0)
			close(fd);
	}
	return 0;
}
