/*
 * Draws with OpenGL ES on a display of the kernel's (KMS, GBM), flips, and reads the last picture
 * back: what a compositor does, and no more.
 *
 * usage: gl-kms CARD FRAMES PICTURE.ppm; prints GL_RENDERER and "flipped"; then it goes on showing
 * the picture until standard input ends. Exit status 1: a flip took seconds, or a call failed.
 */
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES2/gl2.h>
#include <fcntl.h>
#include <gbm.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

static const char vertex[] = "attribute vec2 at; attribute vec3 in_colour; varying vec3 colour;"
			     "void main() { colour = in_colour; gl_Position = vec4(at, 0., 1.); }";
static const char fragment[] = "precision mediump float; varying vec3 colour;"
			       "void main() { gl_FragColor = vec4(colour, 1.); }";
/* The right angle is at the top left: neither a mirrored picture nor one upside down looks so. */
static const float corners[] = { -.5f, .5f, 1, 0, 0, .5f, .5f, 0, 1, 0, -.5f, -.5f, 0, 0, 1 };

static void check(int good, const char *what)
{
	if (good)
		return;
	printf("FAILED %s\n", what);
	exit(1);
}

static GLuint shader(GLenum kind, const char *text)
{
	GLuint made = glCreateShader(kind);
	glShaderSource(made, 1, &text, NULL);
	glCompileShader(made);
	return made;
}

static void flipped(int fd, unsigned sequence, unsigned s, unsigned us, void *waiting)
{
	(void)fd, (void)sequence, (void)s, (void)us;
	*(int *)waiting = 0;
}

static uint32_t framebuffer(int fd, struct gbm_bo *bo)
{
	uint32_t id, handles[4] = { gbm_bo_get_handle(bo).u32 };
	uint32_t strides[4] = { gbm_bo_get_stride(bo) }, offsets[4] = { 0 };
	check(!drmModeAddFB2(fd, gbm_bo_get_width(bo), gbm_bo_get_height(bo), GBM_FORMAT_XRGB8888,
			     handles, strides, offsets, &id, 0),
	      "drmModeAddFB2");
	return id;
}

static void program(void)
{
	GLuint made = glCreateProgram();
	GLint linked;
	glAttachShader(made, shader(GL_VERTEX_SHADER, vertex));
	glAttachShader(made, shader(GL_FRAGMENT_SHADER, fragment));
	glBindAttribLocation(made, 0, "at");
	glBindAttribLocation(made, 1, "in_colour");
	glLinkProgram(made);
	glGetProgramiv(made, GL_LINK_STATUS, &linked);
	check(linked, "glLinkProgram");
	glUseProgram(made);
	glVertexAttribPointer(0, 2, GL_FLOAT, 0, 20, corners);
	glVertexAttribPointer(1, 3, GL_FLOAT, 0, 20, corners + 2);
	glEnableVertexAttribArray(0);
	glEnableVertexAttribArray(1);
}

static void save(const char *path, int width, int height)
{
	unsigned char *pixels = malloc((size_t)width * height * 4);
	FILE *file = fopen(path, "w");
	check(pixels && file, "the picture's file");
	glReadPixels(0, 0, width, height, GL_RGBA, GL_UNSIGNED_BYTE, pixels);
	check(glGetError() == GL_NO_ERROR, "glReadPixels");
	fprintf(file, "P6 %d %d 255\n", width, height);
	/* OpenGL's first row is the lowest. */
	for (int y = height - 1; y >= 0; y--)
		for (int x = 0; x < width; x++)
			fwrite(pixels + ((size_t)y * width + x) * 4, 3, 1, file);
	check(!fclose(file), "writing the picture");
	free(pixels);
}

int main(int argc, char **argv)
{
	EGLint attributes[] = { EGL_SURFACE_TYPE, EGL_WINDOW_BIT, EGL_RENDERABLE_TYPE,
				EGL_OPENGL_ES2_BIT, EGL_RED_SIZE, 8, EGL_ALPHA_SIZE, 0, EGL_NONE };
	EGLint version[] = { EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE };
	EGLConfig configs[64];
	EGLint count = 0, chosen = 0;
	drmModeConnector *connector = NULL;
	struct gbm_bo *shown = NULL;

	check(argc == 4, "usage: gl-kms CARD FRAMES PICTURE.ppm");
	setvbuf(stdout, NULL, _IOLBF, 0);
	int frames = atoi(argv[2]), fd = open(argv[1], O_RDWR | O_CLOEXEC);
	check(fd >= 0, argv[1]);
	drmModeRes *resources = drmModeGetResources(fd);
	check(!!resources, "drmModeGetResources");
	for (int i = 0; i < resources->count_connectors; i++) {
		connector = drmModeGetConnector(fd, resources->connectors[i]);
		if (connector && connector->connection == DRM_MODE_CONNECTED && connector->count_modes)
			break;
	}
	check(connector && connector->count_modes, "a connected display");
	drmModeModeInfo mode = connector->modes[0];
	int width = mode.hdisplay, height = mode.vdisplay;

	struct gbm_device *device = gbm_create_device(fd);
	check(!!device, "gbm_create_device");
	struct gbm_surface *surface =
		gbm_surface_create(device, width, height, GBM_FORMAT_XRGB8888,
				   GBM_BO_USE_SCANOUT | GBM_BO_USE_RENDERING);
	check(!!surface, "gbm_surface_create");
	EGLDisplay display = eglGetPlatformDisplay(EGL_PLATFORM_GBM_KHR, device, NULL);
	check(eglInitialize(display, NULL, NULL), "eglInitialize");
	eglBindAPI(EGL_OPENGL_ES_API);
	eglChooseConfig(display, attributes, configs, 64, &count);
	for (int i = 0; i < count; i++) {
		EGLint format;
		eglGetConfigAttrib(display, configs[i], EGL_NATIVE_VISUAL_ID, &format);
		if (format == GBM_FORMAT_XRGB8888)
			chosen = i;
	}
	check(count > 0, "eglChooseConfig");
	EGLContext context = eglCreateContext(display, configs[chosen], EGL_NO_CONTEXT, version);
	EGLSurface window = eglCreateWindowSurface(display, configs[chosen],
						   (EGLNativeWindowType)surface, NULL);
	check(eglMakeCurrent(display, window, window, context), "eglMakeCurrent");
	printf("GL_RENDERER=%s\nmode %dx%d\n", glGetString(GL_RENDERER), width, height);
	program();

	for (int frame = 0; frame < frames; frame++) {
		glViewport(0, 0, width, height);
		glClearColor(0, frame & 1 ? .5f : 0, .5f, 1);
		glClear(GL_COLOR_BUFFER_BIT);
		glDrawArrays(GL_TRIANGLES, 0, 3);
		if (frame == frames - 1)
			save(argv[3], width, height);
		eglSwapBuffers(display, window);
		struct gbm_bo *next = gbm_surface_lock_front_buffer(surface);
		uint32_t id = framebuffer(fd, next);
		int waiting = 1;
		if (!shown) {
			check(!drmModeSetCrtc(fd, resources->crtcs[0], id, 0, 0,
					      &connector->connector_id, 1, &mode),
			      "drmModeSetCrtc");
		} else {
			check(!drmModePageFlip(fd, resources->crtcs[0], id,
					       DRM_MODE_PAGE_FLIP_EVENT, &waiting),
			      "drmModePageFlip");
			while (waiting) {
				struct pollfd ready = { .fd = fd, .events = POLLIN };
				drmEventContext events = { .version = 2,
							   .page_flip_handler = flipped };
				check(poll(&ready, 1, 10000) > 0, "a flip: no event in 10 s");
				drmHandleEvent(fd, &events);
			}
			gbm_surface_release_buffer(surface, shown);
		}
		shown = next;
	}
	printf("flipped %d\n", frames);
	while (getchar() != EOF)
		;
	return 0;
}
