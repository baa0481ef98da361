/*
 * What a GPU's drivers make of guest pages and of Pinhole's copies: each way in, each format, each
 * alignment of rows. Prints a table of plain text. scripts/gpu-check compiles and runs it.
 *
 * usage: gpu-check [NODE]     a render or primary node of DRM; without one, EGL without a device
 *
 * "ok" is a picture read back through the GPU and right in all pixels, or, for GBM and KMS, memory
 * that was taken; "no" a refusal, with its error at the end of the line; a number the pixels that
 * were wrong; "-" what cannot be tried.
 */
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES2/gl2.h>
#include <GLES2/gl2ext.h>
#include <drm_fourcc.h>
#include <errno.h>
#include <fcntl.h>
#include <gbm.h>
#include <linux/udmabuf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

enum { HEIGHT = 64, PAGE = 4096, WIDTHS = 4, FORMATS = 8 };
/* Rows of 4 * width bytes: multiples of 8, of 64, of 128 and of 256 bytes, and of no more. */
static const uint32_t widths[WIDTHS] = { 1366, 1360, 1376, 1344 };
static const char *const columns[WIDTHS] = { "8", "64", "128", "256" };
/* The formats of a 2D guest's pictures, and the shifts of red, green, blue, alpha (24: none). */
static const struct format {
	const char *name;
	uint32_t fourcc;
	int red, green, blue, alpha;
} formats[FORMATS] = {
	{ "XR24", DRM_FORMAT_XRGB8888, 16, 8, 0, -1 }, { "AR24", DRM_FORMAT_ARGB8888, 16, 8, 0, 24 },
	{ "XB24", DRM_FORMAT_XBGR8888, 0, 8, 16, -1 }, { "AB24", DRM_FORMAT_ABGR8888, 0, 8, 16, 24 },
	{ "RX24", DRM_FORMAT_RGBX8888, 24, 16, 8, -1 }, { "RA24", DRM_FORMAT_RGBA8888, 24, 16, 8, 0 },
	{ "BX24", DRM_FORMAT_BGRX8888, 8, 16, 24, -1 }, { "BA24", DRM_FORMAT_BGRA8888, 8, 16, 24, 0 },
};

static EGLDisplay display;
static int drm = -1;
static struct gbm_device *gbm;
/* The error of the last refusal. */
static char refusal[48];
static PFNEGLCREATEIMAGEKHRPROC create_image;
static PFNEGLDESTROYIMAGEKHRPROC destroy_image;
static PFNGLEGLIMAGETARGETTEXTURE2DOESPROC image_target;

/* A picture in a memfd sealed as QEMU's, and a dma-buf over its pages. */
struct picture {
	int file, dmabuf;
	uint32_t *pixels;
	size_t bytes;
	uint32_t width, stride;
	const struct format *format;
};

static void colour(uint32_t x, uint32_t y, unsigned char rgb[3])
{
	rgb[0] = (unsigned char)(x * 255 / 1400);
	rgb[1] = (unsigned char)(y * 255 / HEIGHT);
	rgb[2] = (unsigned char)(x ^ y);
}

/* Pages in reverse order where scattered is set, as a guest's may lie: one piece for each. */
static int make(struct picture *p, uint32_t width, const struct format *format, int udmabuf,
		int scattered)
{
	p->width = width;
	p->stride = width * 4;
	p->format = format;
	p->bytes = ((size_t)p->stride * HEIGHT + PAGE - 1) / PAGE * PAGE;
	p->dmabuf = -1;
	p->file = memfd_create("gpu-check", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (p->file < 0 || ftruncate(p->file, (off_t)p->bytes) || fcntl(p->file, F_ADD_SEALS, F_SEAL_SHRINK))
		return -1;
	unsigned char *all = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->file, 0);
	if (all == MAP_FAILED)
		return -1;
	size_t pages = p->bytes / PAGE;
	for (uint32_t y = 0; y < HEIGHT; y++)
		for (uint32_t x = 0; x < width; x++) {
			unsigned char c[3];
			colour(x, y, c);
			uint32_t v = (uint32_t)c[0] << format->red | (uint32_t)c[1] << format->green |
				     (uint32_t)c[2] << format->blue;
			if (format->alpha >= 0)
				v |= 0xffu << format->alpha;
			size_t at = (size_t)y * p->stride + x * 4;
			size_t page = at / PAGE;
			if (scattered)
				page = pages - 1 - page;
			memcpy(all + page * PAGE + at % PAGE, &v, 4);
		}
	p->pixels = (uint32_t *)(void *)all;
	if (udmabuf < 0)
		return 0;
	size_t count = scattered ? pages : 1;
	struct udmabuf_create_list *list = calloc(1, sizeof *list + count * sizeof list->list[0]);
	if (!list)
		return -1;
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = (uint32_t)count;
	for (size_t i = 0; i < count; i++) {
		list->list[i].memfd = (uint32_t)p->file;
		list->list[i].offset = scattered ? (pages - 1 - i) * PAGE : 0;
		list->list[i].size = scattered ? PAGE : p->bytes;
	}
	p->dmabuf = ioctl(udmabuf, UDMABUF_CREATE_LIST, list);
	free(list);
	return p->dmabuf < 0 ? -1 : 0;
}

static void drop(struct picture *p)
{
	munmap(p->pixels, p->bytes);
	if (p->dmabuf >= 0)
		close(p->dmabuf);
	close(p->file);
}

/* Compares the texture bound to TEXTURE_2D with the picture; the number of wrong pixels, -1: no. */
static long compare(const struct picture *p, GLuint texture, int swapped)
{
	GLuint frame;
	glGenFramebuffers(1, &frame);
	glBindFramebuffer(GL_FRAMEBUFFER, frame);
	glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, texture, 0);
	long wrong = -1;
	unsigned char *got = malloc((size_t)p->width * HEIGHT * 4);
	if (got && glCheckFramebufferStatus(GL_FRAMEBUFFER) == GL_FRAMEBUFFER_COMPLETE) {
		wrong = 0;
		glReadPixels(0, 0, (GLsizei)p->width, HEIGHT, GL_RGBA, GL_UNSIGNED_BYTE, got);
		for (uint32_t y = 0; y < HEIGHT; y++)
			for (uint32_t x = 0; x < p->width; x++) {
				unsigned char c[3], *g = got + ((size_t)y * p->width + x) * 4;
				colour(x, y, c);
				wrong += g[0] != c[swapped ? 2 : 0] || g[1] != c[1] || g[2] != c[swapped ? 0 : 2];
			}
		if (glGetError() != GL_NO_ERROR)
			wrong = -1;
	}
	free(got);
	glDeleteFramebuffers(1, &frame);
	return wrong;
}

static long through_egl(const struct picture *p)
{
	EGLint attributes[] = { EGL_WIDTH, (EGLint)p->width, EGL_HEIGHT, HEIGHT,
				EGL_LINUX_DRM_FOURCC_EXT, (EGLint)p->format->fourcc,
				EGL_DMA_BUF_PLANE0_FD_EXT, p->dmabuf,
				EGL_DMA_BUF_PLANE0_OFFSET_EXT, 0,
				EGL_DMA_BUF_PLANE0_PITCH_EXT, (EGLint)p->stride,
				EGL_DMA_BUF_PLANE0_MODIFIER_LO_EXT, 0,
				EGL_DMA_BUF_PLANE0_MODIFIER_HI_EXT, 0, EGL_NONE };
	EGLImage image = create_image(display, EGL_NO_CONTEXT, EGL_LINUX_DMA_BUF_EXT, NULL, attributes);
	if (image == EGL_NO_IMAGE) {
		snprintf(refusal, sizeof refusal, "EGL error 0x%x", (unsigned)eglGetError());
		return -1;
	}
	GLuint texture;
	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	image_target(GL_TEXTURE_2D, image);
	long wrong = compare(p, texture, 0);
	if (wrong < 0)
		snprintf(refusal, sizeof refusal, "imported, but cannot be read back");
	glDeleteTextures(1, &texture);
	destroy_image(display, image);
	return wrong;
}

/* A copy is a memfd: consumers upload it. OpenGL ES 2 has RGBA alone, so blue and red may swap. */
static long uploaded(const struct picture *p)
{
	if (p->format->red > 16 || p->format->alpha == 0 || p->format->green != 8)
		return -2;
	GLuint texture;
	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA, (GLsizei)p->width, HEIGHT, 0, GL_RGBA, GL_UNSIGNED_BYTE,
		     p->pixels);
	long wrong = compare(p, texture, p->format->red == 16);
	glDeleteTextures(1, &texture);
	return wrong;
}

static long through_gbm(const struct picture *p)
{
	struct gbm_import_fd_modifier_data data = { .width = p->width, .height = HEIGHT,
		.format = p->format->fourcc, .num_fds = 1, .fds = { p->dmabuf },
		.strides = { (int)p->stride }, .modifier = DRM_FORMAT_MOD_LINEAR };
	struct gbm_bo *bo = gbm_bo_import(gbm, GBM_BO_IMPORT_FD_MODIFIER, &data, GBM_BO_USE_RENDERING);
	if (!bo) {
		snprintf(refusal, sizeof refusal, "%s", strerror(errno));
		return -1;
	}
	gbm_bo_destroy(bo);
	return 0;
}

static long through_kms(const struct picture *p)
{
	uint32_t handles[4] = { 0 }, strides[4] = { p->stride }, offsets[4] = { 0 }, id = 0;
	uint64_t modifiers[4] = { DRM_FORMAT_MOD_LINEAR };
	if (drmPrimeFDToHandle(drm, p->dmabuf, &handles[0])) {
		snprintf(refusal, sizeof refusal, "PRIME: %s", strerror(errno));
		return -1;
	}
	int r = drmModeAddFB2WithModifiers(drm, p->width, HEIGHT, p->format->fourcc, handles, strides, offsets,
					   modifiers, &id, DRM_MODE_FB_MODIFIERS);
	if (r)
		r = drmModeAddFB2(drm, p->width, HEIGHT, p->format->fourcc, handles, strides, offsets, &id, 0);
	if (r)
		snprintf(refusal, sizeof refusal, "AddFB2: %s", strerror(-r));
	else
		drmModeRmFB(drm, id);
	drmCloseBufferHandle(drm, handles[0]);
	return r ? -1 : 0;
}

static void table(const char *way, const char *memory, long (*try)(const struct picture *), int udmabuf,
		  int scattered)
{
	char results[FORMATS][160];
	for (int f = 0; f < FORMATS; f++) {
		size_t length = 0;
		refusal[0] = 0;
		for (int w = 0; w < WIDTHS; w++) {
			struct picture p;
			char text[24] = "-";
			if (!make(&p, widths[w], &formats[f], udmabuf, scattered)) {
				long wrong = try(&p);
				drop(&p);
				if (wrong > 0)
					snprintf(text, sizeof text, "%ld", wrong);
				else
					strcpy(text, wrong == -2 ? "-" : wrong ? "no" : "ok");
			}
			length += (size_t)snprintf(results[f] + length, sizeof results[f] - length, "  %3s: %s",
						   columns[w], text);
		}
		if (refusal[0])
			snprintf(results[f] + length, sizeof results[f] - length, "  (%s)", refusal);
	}
	/* One line for all formats that fare alike. */
	for (int f = 0; f < FORMATS; f++) {
		int seen = 0;
		for (int g = 0; g < f; g++)
			seen |= !strcmp(results[f], results[g]);
		if (seen)
			continue;
		printf("%-4s %-22s%s ", way, memory, results[f]);
		for (int g = f; g < FORMATS; g++)
			if (!strcmp(results[f], results[g]))
				printf(" %s", formats[g].name);
		printf("\n");
	}
}

/* 0 if there is a context to read pictures with. */
static int start_egl(void)
{
	PFNEGLGETPLATFORMDISPLAYEXTPROC get =
		(PFNEGLGETPLATFORMDISPLAYEXTPROC)eglGetProcAddress("eglGetPlatformDisplayEXT");
	display = !get ? EGL_NO_DISPLAY
		  : gbm ? get(EGL_PLATFORM_GBM_KHR, gbm, NULL)
			: get(EGL_PLATFORM_SURFACELESS_MESA, EGL_DEFAULT_DISPLAY, NULL);
	EGLint attributes[] = { EGL_SURFACE_TYPE, EGL_DONT_CARE, EGL_RENDERABLE_TYPE, EGL_OPENGL_ES2_BIT,
				EGL_NONE };
	EGLint version[] = { EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE };
	EGLConfig config;
	EGLint count = 0;
	if (!display || !eglInitialize(display, NULL, NULL))
		return -1;
	eglBindAPI(EGL_OPENGL_ES_API);
	if (!eglChooseConfig(display, attributes, &config, 1, &count) || count < 1)
		return -1;
	EGLContext context = eglCreateContext(display, config, EGL_NO_CONTEXT, version);
	if (!context || !eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context))
		return -1;
	create_image = (PFNEGLCREATEIMAGEKHRPROC)eglGetProcAddress("eglCreateImageKHR");
	destroy_image = (PFNEGLDESTROYIMAGEKHRPROC)eglGetProcAddress("eglDestroyImageKHR");
	image_target = (PFNGLEGLIMAGETARGETTEXTURE2DOESPROC)eglGetProcAddress("glEGLImageTargetTexture2DOES");
	printf("EGL: %s, %s; GL: %s\n", eglQueryString(display, EGL_VENDOR),
	       eglQueryString(display, EGL_VERSION), glGetString(GL_RENDERER));
	if (!strstr(eglQueryString(display, EGL_EXTENSIONS), "EGL_EXT_image_dma_buf_import_modifiers"))
		image_target = NULL;
	return 0;
}

int main(int argc, char **argv)
{
	int udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (udmabuf < 0)
		printf("/dev/udmabuf: %s: guest pages cannot be tried\n", strerror(errno));
	if (argc > 1) {
		drm = open(argv[1], O_RDWR | O_CLOEXEC);
		drmVersionPtr version = drm < 0 ? NULL : drmGetVersion(drm);
		if (!version) {
			fprintf(stderr, "gpu-check: cannot use %s: %s\n", argv[1], strerror(errno));
			return 1;
		}
		printf("%s: driver %s %d.%d.%d\n", argv[1], version->name, version->version_major,
		       version->version_minor, version->version_patchlevel);
		drmFreeVersion(version);
		gbm = gbm_create_device(drm);
		printf("GBM: %s\n", gbm ? gbm_device_get_backend_name(gbm) : "none for this node");
	}
	int has_egl = start_egl() == 0;
	if (!has_egl)
		printf("EGL: no context here\n");
	printf("way, memory, by the alignment of rows in bytes, and the formats of which it is so\n");
	if (has_egl && image_target && udmabuf >= 0) {
		table("EGL", "guest pages", through_egl, udmabuf, 0);
		table("EGL", "guest pages, scattered", through_egl, udmabuf, 1);
	} else if (has_egl) {
		printf("EGL  guest pages: %s\n",
		       image_target ? "not tried" : "this EGL imports no dma-bufs");
	}
	if (has_egl)
		table("GL", "copies, uploaded", uploaded, -1, 0);
	if (gbm && udmabuf >= 0)
		table("GBM", "guest pages, scattered", through_gbm, udmabuf, 1);
	if (drm >= 0 && udmabuf >= 0) {
		drmModeResPtr resources = drmModeGetResources(drm);
		if (resources && resources->count_connectors > 0)
			table("KMS", "guest pages, scattered", through_kms, udmabuf, 1);
		else
			printf("KMS  this node has no displays\n");
		if (resources)
			drmModeFreeResources(resources);
	}
	return 0;
}
