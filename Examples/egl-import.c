/*
 * A frame consumer whose GPU reads the guest's pages: imports each generation of a buffer with
 * EGL_LINUX_DMA_BUF_EXT, reads frames back through the GPU and writes them as PPM.
 *
 *   cc -std=c11 -D_GNU_SOURCE -I../Protocol/include -o egl-import egl-import.c -lEGL -lGLESv2
 *   ./egl-import SOCKET PREFIX [FRAMES]      writes PREFIX1.ppm, PREFIX2.ppm ... then ends
 *
 * Where the driver refuses a buffer (AMD wants strides in steps of 256 bytes) a real consumer asks
 * for PINHOLE_FEATURE_ALIGNMENT, or reads with the CPU as consumer.c does.
 */
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES2/gl2.h>
#include <GLES2/gl2ext.h>
#include <errno.h>
#include <pinhole_frames.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_BUFFERS 256

static struct buffer {
	struct pinhole_buffer_add add;
	EGLImage image; /* EGL_NO_IMAGE: the slot is free */
	GLuint texture, framebuffer;
} buffers[MAX_BUFFERS];

static EGLDisplay display;
static PFNGLEGLIMAGETARGETTEXTURE2DOESPROC image_target;

static void fail(const char *what)
{
	fprintf(stderr, "egl-import: %s (errno %s, EGL 0x%x)\n", what, strerror(errno),
		(unsigned)eglGetError());
	exit(1);
}

static void start_egl(void)
{
	PFNEGLGETPLATFORMDISPLAYEXTPROC get =
		(PFNEGLGETPLATFORMDISPLAYEXTPROC)eglGetProcAddress("eglGetPlatformDisplayEXT");
	display = get ? get(EGL_PLATFORM_SURFACELESS_MESA, EGL_DEFAULT_DISPLAY, NULL) : NULL;
	if (!display || !eglInitialize(display, NULL, NULL))
		fail("no EGL without a window system");
	if (!strstr(eglQueryString(display, EGL_EXTENSIONS), "EGL_EXT_image_dma_buf_import_modifiers"))
		fail("this EGL imports no dma-bufs");
	EGLint attributes[] = { EGL_SURFACE_TYPE, EGL_DONT_CARE, EGL_RENDERABLE_TYPE,
				EGL_OPENGL_ES2_BIT, EGL_NONE };
	EGLint version[] = { EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE };
	EGLConfig config;
	EGLint count = 0;
	eglBindAPI(EGL_OPENGL_ES_API);
	if (!eglChooseConfig(display, attributes, &config, 1, &count) || count < 1)
		fail("no configuration");
	EGLContext context = eglCreateContext(display, config, EGL_NO_CONTEXT, version);
	if (!context || !eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context))
		fail("no context");
	image_target = (PFNGLEGLIMAGETARGETTEXTURE2DOESPROC)eglGetProcAddress(
		"glEGLImageTargetTexture2DOES");
	printf("renderer %s\n", glGetString(GL_RENDERER));
}

static struct buffer *find(uint32_t number, uint32_t generation)
{
	for (struct buffer *b = buffers; b < buffers + MAX_BUFFERS; b++)
		if (b->image && b->add.buffer == number && b->add.generation == generation)
			return b;
	return NULL;
}

/* Once for each generation: a later one has other pages. EGL keeps a reference of its own. */
static void import(const struct pinhole_buffer_add *add, int fd)
{
	static PFNEGLCREATEIMAGEKHRPROC create;
	struct buffer *b = buffers;
	while (b < buffers + MAX_BUFFERS - 1 && b->image)
		b++;
	if (!(add->flags & PINHOLE_BUFFER_DMABUF)) { /* a memfd: upload it, as consumer.c reads it */
		printf("buffer %u.%u is a copy\n", add->buffer, add->generation);
		return;
	}
	EGLint attributes[] = {
		EGL_WIDTH, (EGLint)add->width, EGL_HEIGHT, (EGLint)add->height,
		EGL_LINUX_DRM_FOURCC_EXT, (EGLint)add->fourcc,
		EGL_DMA_BUF_PLANE0_FD_EXT, fd,
		EGL_DMA_BUF_PLANE0_OFFSET_EXT, (EGLint)add->planes[0].offset,
		EGL_DMA_BUF_PLANE0_PITCH_EXT, (EGLint)add->planes[0].stride,
		/* Linear has to be said: without a modifier the driver guesses. */
		EGL_DMA_BUF_PLANE0_MODIFIER_LO_EXT, (EGLint)(add->modifier & 0xffffffff),
		EGL_DMA_BUF_PLANE0_MODIFIER_HI_EXT, (EGLint)(add->modifier >> 32), EGL_NONE };
	if (!create)
		create = (PFNEGLCREATEIMAGEKHRPROC)eglGetProcAddress("eglCreateImageKHR");
	b->image = create(display, EGL_NO_CONTEXT, EGL_LINUX_DMA_BUF_EXT, NULL, attributes);
	if (!b->image)
		fail("the driver does not import this buffer");
	glGenTextures(1, &b->texture);
	glBindTexture(GL_TEXTURE_2D, b->texture);
	image_target(GL_TEXTURE_2D, b->image);
	glGenFramebuffers(1, &b->framebuffer);
	glBindFramebuffer(GL_FRAMEBUFFER, b->framebuffer);
	glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, b->texture, 0);
	if (glCheckFramebufferStatus(GL_FRAMEBUFFER) != GL_FRAMEBUFFER_COMPLETE)
		fail("the driver does not read this buffer");
	b->add = *add;
	printf("buffer %u.%u imported\n", add->buffer, add->generation);
}

static void let_go(int sock, const struct pinhole_buffer_remove *gone)
{
	struct buffer *b = find(gone->buffer, gone->generation);
	if (b) {
		glDeleteFramebuffers(1, &b->framebuffer);
		glDeleteTextures(1, &b->texture);
		glFinish();
		((PFNEGLDESTROYIMAGEKHRPROC)eglGetProcAddress("eglDestroyImageKHR"))(display, b->image);
		b->image = EGL_NO_IMAGE;
	}
	printf("buffer %u.%u removed\n", gone->buffer, gone->generation);
	struct pinhole_buffer_closed closed = { { PINHOLE_BUFFER_CLOSED, sizeof closed },
						gone->buffer, gone->generation };
	send(sock, &closed, sizeof closed, MSG_NOSIGNAL);
}

static void look(int sock, const struct pinhole_frame *f, const char *prefix, long *frames)
{
	struct buffer *b = find(f->buffer, f->generation);
	size_t size = (size_t)f->crop.width * f->crop.height * 4;
	uint8_t *pixels = b ? malloc(size) : NULL;
	if (pixels) {
		glBindFramebuffer(GL_FRAMEBUFFER, b->framebuffer);
		glReadPixels((GLint)f->crop.x, (GLint)f->crop.y, (GLsizei)f->crop.width,
			     (GLsizei)f->crop.height, GL_RGBA, GL_UNSIGNED_BYTE, pixels);
	}
	/* glReadPixels has waited for the GPU: nothing reads the frame any more. */
	struct pinhole_frame_done done = { { PINHOLE_FRAME_DONE, sizeof done },
					   f->output, PINHOLE_FENCE_NONE, f->serial, 0 };
	send(sock, &done, sizeof done, MSG_NOSIGNAL);
	if (!pixels)
		return;
	long number = ++*frames;
	char path[4096];
	snprintf(path, sizeof path, "%s%ld.ppm", prefix, number);
	FILE *out = fopen(path, "wb");
	if (!out)
		fail(path);
	fprintf(out, "P6\n%u %u\n255\n", f->crop.width, f->crop.height);
	for (size_t at = 0; at < size; at += 4)
		fwrite(pixels + at, 1, 3, out);
	if (fclose(out))
		fail(path);
	free(pixels);
	printf("frame %ld buffer %u.%u\n", number, f->buffer, f->generation);
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (argc < 3 || strlen(argv[1]) >= sizeof to.sun_path) {
		fprintf(stderr, "usage: egl-import SOCKET PREFIX [FRAMES]\n");
		return 2;
	}
	long wanted = argc > 3 ? atol(argv[3]) : 1;
	strcpy(to.sun_path, argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	start_egl();
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to) < 0)
		fail(argv[1]);
	struct pinhole_consumer_hello hello = { { PINHOLE_CONSUMER_HELLO, sizeof hello },
						.magic = PINHOLE_MAGIC, .min_version = 1,
						.max_version = 1, .name = "EGL import" };
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
		if (m.header.type == PINHOLE_BUFFER_ADD)
			import(&m.add, fd);
		else if (m.header.type == PINHOLE_FRAME)
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
