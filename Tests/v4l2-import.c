/*
 * A frame consumer that hands each dma-buf to a V4L2 output device, as encoders and capture cards
 * take theirs (V4L2_MEMORY_DMABUF), and writes what comes out of the capture device at the other
 * end of the cable. vivid, the kernel's virtual device, is both.
 *
 *   v4l2-import SOCKET PREFIX [FRAMES]     PREFIX1.ppm, PREFIX2.ppm, … of 640x480 pixels
 *
 * Include: linux/videodev2.h; the kernel's Documentation/userspace-api/media/v4l/dmabuf.rst.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/v4l2-dv-timings.h>
#include <linux/videodev2.h>
#include <pinhole_frames.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { WIDTH = 640, HEIGHT = 480, MAX_BUFFERS = 256, QUEUED = 3, CAPTURED = 8 };

static struct buffer {
	struct pinhole_buffer_add add;
	int fd; /* 0: the slot is free */
} buffers[MAX_BUFFERS];

static int output_device = -1, capture_device = -1;

static void fail(const char *what)
{
	fprintf(stderr, "v4l2-import: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void call(int fd, unsigned long request, void *argument, const char *what)
{
	int r;
	do
		r = ioctl(fd, request, argument);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		fail(what);
}

/* The nodes of vivid that take and give pictures. */
static void find_devices(void)
{
	DIR *folder = opendir("/dev");
	if (!folder)
		fail("/dev");
	for (struct dirent *entry; (entry = readdir(folder));) {
		char path[300];
		struct v4l2_capability facts = { 0 };
		if (strncmp(entry->d_name, "video", 5))
			continue;
		snprintf(path, sizeof path, "/dev/%s", entry->d_name);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, VIDIOC_QUERYCAP, &facts) < 0 ||
		    strcmp((char *)facts.driver, "vivid"))
			facts.device_caps = 0;
		if (facts.device_caps & V4L2_CAP_VIDEO_OUTPUT && output_device < 0)
			output_device = fd;
		else if (facts.device_caps & V4L2_CAP_VIDEO_CAPTURE && capture_device < 0)
			capture_device = fd;
		else if (fd >= 0)
			close(fd);
	}
	closedir(folder);
	errno = ENODEV;
	if (output_device < 0 || capture_device < 0)
		fail("vivid's devices");
}

/* Sets a menu, by a part of its name, to the entry with this text; whether there is such a menu. */
static int choose(int fd, const char *name, const char *text)
{
	struct v4l2_queryctrl control = { .id = V4L2_CTRL_FLAG_NEXT_CTRL };
	for (; ioctl(fd, VIDIOC_QUERYCTRL, &control) == 0; control.id |= V4L2_CTRL_FLAG_NEXT_CTRL) {
		if (control.type != V4L2_CTRL_TYPE_MENU || !strstr((char *)control.name, name))
			continue;
		for (int i = control.minimum; i <= control.maximum; i++) {
			struct v4l2_querymenu item = { .id = control.id, .index = (uint32_t)i };
			if (ioctl(fd, VIDIOC_QUERYMENU, &item) < 0 || !strstr((char *)item.name, text))
				continue;
			struct v4l2_control set = { .id = control.id, .value = i };
			call(fd, VIDIOC_S_CTRL, &set, name);
			return 1;
		}
	}
	return 0;
}

static void set_format(int fd, enum v4l2_buf_type type, uint32_t stride)
{
	struct v4l2_format format = { .type = type };
	format.fmt.pix.width = WIDTH;
	format.fmt.pix.height = HEIGHT;
	format.fmt.pix.pixelformat = V4L2_PIX_FMT_XBGR32; /* DRM_FORMAT_XRGB8888 */
	format.fmt.pix.field = V4L2_FIELD_NONE;
	format.fmt.pix.bytesperline = stride;
	call(fd, VIDIOC_S_FMT, &format, "VIDIOC_S_FMT");
	errno = EINVAL;
	if (format.fmt.pix.width != WIDTH || format.fmt.pix.height != HEIGHT ||
	    format.fmt.pix.pixelformat != V4L2_PIX_FMT_XBGR32 ||
	    format.fmt.pix.bytesperline != stride)
		fail("VIDIOC_S_FMT: another format");
}

/* A cable from the output to the capture device. */
static void connect_devices(void)
{
	struct v4l2_input input = { 0 };
	struct v4l2_output output = { 0 };
	while (ioctl(capture_device, VIDIOC_ENUMINPUT, &input) == 0 &&
	       strncmp((char *)input.name, "HDMI", 4))
		input.index++;
	while (ioctl(output_device, VIDIOC_ENUMOUTPUT, &output) == 0 &&
	       strncmp((char *)output.name, "HDMI", 4))
		output.index++;
	int in = (int)input.index, out = (int)output.index;
	call(capture_device, VIDIOC_S_INPUT, &in, "VIDIOC_S_INPUT");
	call(output_device, VIDIOC_S_OUTPUT, &out, "VIDIOC_S_OUTPUT");
	errno = ENOENT;
	if (!choose(capture_device, "Is Connected To", "Output HDMI"))
		fail("vivid's menu 'Is Connected To'");
	choose(capture_device, "OSD Text Mode", "None");
	struct v4l2_dv_timings timings = V4L2_DV_BT_CEA_640X480P59_94;
	call(output_device, VIDIOC_S_DV_TIMINGS, &timings, "VIDIOC_S_DV_TIMINGS");
	call(capture_device, VIDIOC_S_DV_TIMINGS, &timings, "VIDIOC_S_DV_TIMINGS");
}

static void reserve(int fd, enum v4l2_buf_type type, enum v4l2_memory memory, uint32_t count)
{
	struct v4l2_requestbuffers request = { .count = count, .type = type, .memory = memory };
	call(fd, VIDIOC_REQBUFS, &request, "VIDIOC_REQBUFS");
}

static void queue_output(uint32_t index, const struct buffer *b)
{
	struct v4l2_buffer v = { .index = index, .type = V4L2_BUF_TYPE_VIDEO_OUTPUT,
				 .memory = V4L2_MEMORY_DMABUF, .field = V4L2_FIELD_NONE };
	v.m.fd = b->fd;
	v.bytesused = b->add.planes[0].stride * HEIGHT;
	v.length = (uint32_t)b->add.size;
	call(output_device, VIDIOC_QBUF, &v, "VIDIOC_QBUF of a dma-buf");
}

static void queue_capture(uint32_t index)
{
	struct v4l2_buffer v = { .index = index, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
				 .memory = V4L2_MEMORY_MMAP };
	call(capture_device, VIDIOC_QBUF, &v, "VIDIOC_QBUF");
}

static uint32_t dequeue(int fd, enum v4l2_buf_type type, enum v4l2_memory memory)
{
	struct v4l2_buffer v = { .type = type, .memory = memory };
	call(fd, VIDIOC_DQBUF, &v, "VIDIOC_DQBUF");
	return v.index;
}

static void write_ppm(const char *prefix, long number, const uint8_t *pixels, uint32_t stride)
{
	char path[4096];
	snprintf(path, sizeof path, "%s%ld.ppm", prefix, number);
	FILE *out = fopen(path, "wb");
	if (!out)
		fail(path);
	fprintf(out, "P6\n%u %u\n255\n", WIDTH, HEIGHT);
	for (uint32_t y = 0; y < HEIGHT; y++)
		for (const uint8_t *p = pixels + (size_t)y * stride, *end = p + WIDTH * 4; p < end; p += 4)
			fwrite((uint8_t[]){ p[2], p[1], p[0] }, 1, 3, out);
	if (fclose(out))
		fail(path);
}

/* Shows one buffer until it has certainly come through the cable, and writes that. */
static void show(const struct buffer *b, const char *prefix, long number)
{
	const int out = V4L2_BUF_TYPE_VIDEO_OUTPUT, in = V4L2_BUF_TYPE_VIDEO_CAPTURE;
	uint32_t stride = b->add.planes[0].stride;
	uint8_t *mapped[QUEUED];
	set_format(output_device, V4L2_BUF_TYPE_VIDEO_OUTPUT, stride);
	set_format(capture_device, V4L2_BUF_TYPE_VIDEO_CAPTURE, stride);
	reserve(output_device, V4L2_BUF_TYPE_VIDEO_OUTPUT, V4L2_MEMORY_DMABUF, QUEUED);
	reserve(capture_device, V4L2_BUF_TYPE_VIDEO_CAPTURE, V4L2_MEMORY_MMAP, QUEUED);
	for (uint32_t i = 0; i < QUEUED; i++) {
		struct v4l2_buffer v = { .index = i, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
					 .memory = V4L2_MEMORY_MMAP };
		call(capture_device, VIDIOC_QUERYBUF, &v, "VIDIOC_QUERYBUF");
		mapped[i] = mmap(NULL, v.length, PROT_READ, MAP_SHARED, capture_device, v.m.offset);
		if (mapped[i] == MAP_FAILED)
			fail("mmap");
		queue_output(i, b);
		queue_capture(i);
	}
	call(output_device, VIDIOC_STREAMON, (void *)&out, "VIDIOC_STREAMON");
	call(capture_device, VIDIOC_STREAMON, (void *)&in, "VIDIOC_STREAMON");
	uint32_t last = 0;
	for (int i = 0; i < CAPTURED; i++) {
		if (i)
			queue_capture(last);
		queue_output(dequeue(output_device, V4L2_BUF_TYPE_VIDEO_OUTPUT, V4L2_MEMORY_DMABUF), b);
		last = dequeue(capture_device, V4L2_BUF_TYPE_VIDEO_CAPTURE, V4L2_MEMORY_MMAP);
	}
	write_ppm(prefix, number, mapped[last], stride);
	call(capture_device, VIDIOC_STREAMOFF, (void *)&in, "VIDIOC_STREAMOFF");
	call(output_device, VIDIOC_STREAMOFF, (void *)&out, "VIDIOC_STREAMOFF");
	for (uint32_t i = 0; i < QUEUED; i++)
		munmap(mapped[i], (size_t)stride * HEIGHT);
	reserve(capture_device, V4L2_BUF_TYPE_VIDEO_CAPTURE, V4L2_MEMORY_MMAP, 0);
	/* It lets go of the dma-buf here. */
	reserve(output_device, V4L2_BUF_TYPE_VIDEO_OUTPUT, V4L2_MEMORY_DMABUF, 0);
	printf("frame %ld buffer %u.%u\n", number, b->add.buffer, b->add.generation);
}

static struct buffer *find(uint32_t number, uint32_t generation)
{
	for (struct buffer *b = buffers; b < buffers + MAX_BUFFERS; b++)
		if (b->fd && b->add.buffer == number && b->add.generation == generation)
			return b;
	return NULL;
}

static void add(const struct pinhole_buffer_add *added, int fd)
{
	struct buffer *b = buffers; /* a producer has no more than MAX_BUFFERS out */
	while (b < buffers + MAX_BUFFERS - 1 && b->fd)
		b++;
	b->add = *added;
	b->fd = fd;
	printf("buffer %u.%u %s\n", added->buffer, added->generation,
	       added->flags & PINHOLE_BUFFER_DMABUF ? "dma-buf" : "copy");
}

static void let_go(int sock, const struct pinhole_buffer_remove *gone)
{
	struct buffer *b = find(gone->buffer, gone->generation);
	if (b) {
		close(b->fd);
		b->fd = 0;
	}
	struct pinhole_buffer_closed closed = { { PINHOLE_BUFFER_CLOSED, sizeof closed },
						gone->buffer, gone->generation };
	send(sock, &closed, sizeof closed, MSG_NOSIGNAL);
}

static void look(int sock, const struct pinhole_frame *f, const char *prefix, long *frames)
{
	struct buffer *b = find(f->buffer, f->generation);
	if (b && b->add.flags & PINHOLE_BUFFER_DMABUF && b->add.width == WIDTH &&
	    b->add.height == HEIGHT)
		show(b, prefix, ++*frames);
	struct pinhole_frame_done done = { { PINHOLE_FRAME_DONE, sizeof done },
					   f->output, PINHOLE_FENCE_NONE, f->serial, 0 };
	send(sock, &done, sizeof done, MSG_NOSIGNAL);
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (argc < 3 || strlen(argv[1]) >= sizeof to.sun_path) {
		fprintf(stderr, "usage: v4l2-import SOCKET PREFIX [FRAMES]\n");
		return 2;
	}
	long wanted = argc > 3 ? atol(argv[3]) : 1;
	strcpy(to.sun_path, argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	find_devices();
	connect_devices();
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to) < 0)
		fail(argv[1]);
	struct pinhole_consumer_hello hello = { { PINHOLE_CONSUMER_HELLO, sizeof hello },
						.magic = PINHOLE_MAGIC, .min_version = 1,
						.max_version = 1, .name = "V4L2 import" };
	send(sock, &hello, sizeof hello, MSG_NOSIGNAL);
	for (long frames = 0; frames < wanted;) {
		union {
			struct pinhole_header header;
			struct pinhole_buffer_add add;
			struct pinhole_frame frame;
			struct pinhole_buffer_remove remove;
			struct pinhole_error error;
			char bytes[PINHOLE_MAX_MESSAGE];
		} m;
		union {
			struct cmsghdr align;
			char bytes[CMSG_SPACE(sizeof(int) * PINHOLE_MAX_FDS)];
		} control;
		struct iovec iov = { &m, sizeof m };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
				      .msg_control = control.bytes,
				      .msg_controllen = sizeof control.bytes };
		ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
		if (n < (ssize_t)sizeof m.header || m.header.size != (size_t)n)
			return 1;
		int fd = -1;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
			if (c->cmsg_type == SCM_RIGHTS)
				memcpy(&fd, CMSG_DATA(c), sizeof fd);
		if (m.header.type == PINHOLE_BUFFER_ADD) {
			add(&m.add, fd);
			fd = -1; /* kept */
		} else if (m.header.type == PINHOLE_FRAME)
			look(sock, &m.frame, argv[2], &frames);
		else if (m.header.type == PINHOLE_BUFFER_REMOVE)
			let_go(sock, &m.remove);
		else if (m.header.type == PINHOLE_ERROR)
			fail(m.error.text);
		if (fd >= 0)
			close(fd);
	}
	return 0;
}
