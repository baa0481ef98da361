#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_virgl.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <virgl/virglrenderer.h>

/* What is used of it; every one is in 0.10.4 and later, by the header's own types. */
#define FUNCTIONS(F)                                                                          \
	F(init) F(poll) F(get_poll_fd) F(get_cap_set) F(fill_caps)                            \
	F(context_create_with_flags) F(context_destroy) F(resource_create) F(resource_unref)  \
	F(ctx_attach_resource) F(ctx_detach_resource) F(resource_attach_iov)                  \
	F(resource_detach_iov) F(transfer_read_iov) F(transfer_write_iov) F(submit_cmd)       \
	F(create_fence) F(force_ctx_0)

static struct {
#define MEMBER(name) __typeof__(&virgl_renderer_##name) name;
	FUNCTIONS(MEMBER)
#undef MEMBER
} virgl;

static int is_recent;
static int node = -1;
static uint32_t retired;
/* The library keeps the pointers. */
static int cookie;

static void write_fence(void *unused, uint32_t fence)
{
	(void)unused;
	retired = fence;
}

static int get_drm_fd(void *unused)
{
	int fd = node;
	(void)unused;
	node = -1;
	return fd;
}

static struct virgl_renderer_callbacks callbacks = {
	.version = 2,
	.write_fence = write_fence,
	.get_drm_fd = get_drm_fd,
};

/* A guest can make the library say as much as it likes. */
static void say_nothing(const char *format, va_list arguments)
{
	(void)format;
	(void)arguments;
}

int ph_virgl_load(char *why, size_t size)
{
	void *library = dlopen("libvirglrenderer.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		snprintf(why, size, "%s", dlerror());
		return -1;
	}
#define FIND(name)                                                                            \
	virgl.name = (__typeof__(virgl.name))dlsym(library, "virgl_renderer_" #name);         \
	if (!virgl.name) {                                                                    \
		snprintf(why, size, "libvirglrenderer has no virgl_renderer_" #name);         \
		return -1;                                                                    \
	}
	FUNCTIONS(FIND)
#undef FIND
	/* 1.1.0 brought this function. */
	is_recent = dlsym(library, "virgl_set_log_callback") != NULL;
	__typeof__(&virgl_set_debug_callback) set =
		(__typeof__(&virgl_set_debug_callback))dlsym(library, "virgl_set_debug_callback");
	if (set && !getenv("PINHOLE_RENDERER_DEBUG"))
		set(say_nothing);
	return 0;
}

int ph_virgl_is_recent(void) { return is_recent; }

/*
 * The library's own context is current, by virgl_renderer_force_ctx_0: eglMakeCurrent takes its
 * time. Whatever may run in a guest's context, or looks at queries in theirs, clears it.
 */
static int is_ctx_0;

static void use_ctx_0(void)
{
	if (is_ctx_0)
		return;
	virgl.force_ctx_0();
	is_ctx_0 = 1;
}

/* Also where it is current: the library then forgets which context it served last. */
static void begin_in_context(void)
{
	virgl.force_ctx_0();
	is_ctx_0 = 0;
}

static int positive(int result) { return result < 0 ? -result : result; }

int ph_virgl_init(int drm)
{
	int flags = VIRGL_RENDERER_USE_EGL | VIRGL_RENDERER_THREAD_SYNC;

	node = drm;
	if (drm < 0)
		flags |= VIRGL_RENDERER_USE_SURFACELESS;
	return positive(virgl.init(&cookie, flags, &callbacks));
}

int ph_virgl_poll_fd(void) { return virgl.get_poll_fd(); }

void ph_virgl_poll(void)
{
	/* It looks at the queries of all contexts. */
	is_ctx_0 = 0;
	virgl.poll();
}

uint32_t ph_virgl_retired(void) { return retired; }

uint32_t ph_virgl_capset_size(uint32_t id, uint32_t *version)
{
	uint32_t size = 0;

	*version = 0;
	virgl.get_cap_set(id, version, &size);
	return size;
}

void ph_virgl_fill_capset(uint32_t id, uint32_t version, void *bytes)
{
	virgl.fill_caps(id, version, bytes);
}

int ph_virgl_create_context(uint32_t id, uint32_t capset, const char *name, uint32_t length)
{
	uint32_t dialect = capset & VIRGL_RENDERER_CONTEXT_FLAG_CAPSET_ID_MASK;

	is_ctx_0 = 0;
	/* Without a dialect virgl_renderer_context_create means VIRGL2, number 2. */
	return positive(
		virgl.context_create_with_flags(id, dialect ? dialect : 2, length, name));
}

void ph_virgl_destroy_context(uint32_t id)
{
	begin_in_context();
	virgl.context_destroy(id);
}

int ph_virgl_create_resource(const struct ph_virgl_shape *shape)
{
	struct virgl_renderer_resource_create_args args = {
		.handle = shape->handle,
		.target = shape->target,
		.format = shape->format,
		.bind = shape->bind,
		.width = shape->width,
		.height = shape->height,
		.depth = shape->depth,
		.array_size = shape->array_size,
		.last_level = shape->last_level,
		.nr_samples = shape->nr_samples,
		.flags = shape->flags,
	};

	use_ctx_0();
	return positive(virgl.resource_create(&args, NULL, 0));
}

void ph_virgl_destroy_resource(uint32_t id)
{
	use_ctx_0();
	virgl.resource_unref(id);
}

void ph_virgl_attach(uint32_t context, uint32_t resource)
{
	use_ctx_0();
	virgl.ctx_attach_resource((int)context, (int)resource);
}

void ph_virgl_detach(uint32_t context, uint32_t resource)
{
	use_ctx_0();
	virgl.ctx_detach_resource((int)context, (int)resource);
}

int ph_virgl_attach_iov(uint32_t resource, struct iovec *iov, uint32_t count)
{
	use_ctx_0();
	return positive(virgl.resource_attach_iov((int)resource, iov, (int)count));
}

void ph_virgl_detach_iov(uint32_t resource)
{
	struct iovec *iov = NULL;
	int count = 0;

	use_ctx_0();
	virgl.resource_detach_iov((int)resource, &iov, &count);
}

int ph_virgl_transfer(int to_host, uint32_t resource, uint32_t context, uint32_t level,
		      uint32_t stride, uint32_t layer_stride, struct ph_virgl_box box,
		      uint64_t offset, struct iovec *iov, int count)
{
	struct virgl_box *where = (struct virgl_box *)&box;

	if (context)
		begin_in_context();
	else
		use_ctx_0();
	if (to_host)
		return positive(virgl.transfer_write_iov(resource, context, (int)level, stride,
							 layer_stride, where, offset, iov,
							 (unsigned)count));
	return positive(virgl.transfer_read_iov(resource, context, level, stride, layer_stride,
						where, offset, iov, count));
}

int ph_virgl_submit(uint32_t context, const void *commands, uint32_t words)
{
	/* Without this the library says nothing of a context that is in error. */
	begin_in_context();
	return positive(virgl.submit_cmd((void *)(uintptr_t)commands, (int)context, (int)words));
}

int ph_virgl_fence(uint32_t number)
{
	use_ctx_0();
	return positive(virgl.create_fence((int)number, 0));
}
