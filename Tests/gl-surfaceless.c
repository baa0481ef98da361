/*
 * Draws a triangle over a clear colour without any window system and reads it back: a GL program
 * for whatever driver Mesa is told to use. Prints GL_RENDERER, two pixels and the time of a frame.
 *
 * usage: gl-surfaceless [FRAMES [WIDTH HEIGHT [TRIANGLES]]]; exit status 0 if both pixels are right.
 * With TRIANGLES each frame draws so many, waits for them, and is not read back but at the end.
 */
#include <EGL/egl.h>
#include <GLES2/gl2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PLATFORM_SURFACELESS = 0x31DD };

static const char vertex[] = "attribute vec2 at; attribute vec3 in_colour; varying vec3 colour;"
			     "void main() { colour = in_colour; gl_Position = vec4(at, 0., 1.); }";
static const char fragment[] = "precision mediump float; varying vec3 colour;"
			       "void main() { gl_FragColor = vec4(colour, 1.); }";
static const float corners[] = { -.5f, -.5f, 1, 0, 0, .5f, -.5f, 1, 0, 0, 0, .5f, 1, 0, 0 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static GLuint shader(GLenum kind, const char *text)
{
	GLuint made = glCreateShader(kind);
	glShaderSource(made, 1, &text, NULL);
	glCompileShader(made);
	return made;
}

int main(int argc, char **argv)
{
	int frames = argc > 1 ? atoi(argv[1]) : 3;
	int width = argc > 3 ? atoi(argv[2]) : 640, height = argc > 3 ? atoi(argv[3]) : 480;
	int triangles = argc > 4 ? atoi(argv[4]) : 0;
	EGLDisplay display = eglGetPlatformDisplay(PLATFORM_SURFACELESS, NULL, NULL);
	EGLint version[] = { EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE };
	EGLContext context;
	GLuint texture, buffer, program;
	unsigned char *pixels, *centre;
	double start, milliseconds;

	if (!eglInitialize(display, NULL, NULL) || !eglBindAPI(EGL_OPENGL_ES_API))
		return puts("no EGL"), 2;
	context = eglCreateContext(display, (EGLConfig)0, NULL, version);
	if (!context || !eglMakeCurrent(display, NULL, NULL, context))
		return puts("no context"), 3;
	printf("GL_RENDERER=%s\n", glGetString(GL_RENDERER));
	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA, width, height, 0, GL_RGBA, GL_UNSIGNED_BYTE, NULL);
	glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MIN_FILTER, GL_NEAREST);
	glGenFramebuffers(1, &buffer);
	glBindFramebuffer(GL_FRAMEBUFFER, buffer);
	glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, texture, 0);
	program = glCreateProgram();
	glAttachShader(program, shader(GL_VERTEX_SHADER, vertex));
	glAttachShader(program, shader(GL_FRAGMENT_SHADER, fragment));
	glBindAttribLocation(program, 0, "at");
	glBindAttribLocation(program, 1, "in_colour");
	glLinkProgram(program);
	glUseProgram(program);
	glVertexAttribPointer(0, 2, GL_FLOAT, 0, 20, corners);
	glVertexAttribPointer(1, 3, GL_FLOAT, 0, 20, corners + 2);
	glEnableVertexAttribArray(0);
	glEnableVertexAttribArray(1);
	glViewport(0, 0, width, height);
	pixels = malloc((size_t)width * height * 4);
	start = now();
	for (int i = 0; i < frames; i++) {
		glClearColor(0, 0, .5, 1);
		glClear(GL_COLOR_BUFFER_BIT);
		for (int drawn = 0; drawn == 0 || drawn < triangles; drawn++)
			glDrawArrays(GL_TRIANGLES, 0, 3);
		if (triangles)
			glFinish();
		else
			glReadPixels(0, 0, width, height, GL_RGBA, GL_UNSIGNED_BYTE, pixels);
	}
	milliseconds = (now() - start) / frames;
	if (triangles)
		glReadPixels(0, 0, width, height, GL_RGBA, GL_UNSIGNED_BYTE, pixels);
	centre = pixels + ((size_t)height / 2 * width + width / 2) * 4;
	printf("centre=%02x%02x%02x corner=%02x%02x%02x error=%x ms=%.3f\n", centre[0], centre[1],
	       centre[2], pixels[0], pixels[1], pixels[2], glGetError(), milliseconds);
	return memcmp(centre, "\xff\0\0", 3) || memcmp(pixels, "\0\0\x80", 3);
}
