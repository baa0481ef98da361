#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_gbm.h"
#include <dlfcn.h>
#include <errno.h>
#include <gbm.h>
#include <stdio.h>
#include <string.h>

/* What is used of it, by the header's own types. */
#define FUNCTIONS(F)                                                                          \
	F(create_device) F(device_destroy) F(bo_create) F(bo_destroy) F(bo_map) F(bo_unmap)   \
	F(bo_get_fd) F(bo_get_stride) F(bo_get_offset) F(bo_get_modifier)                     \
	F(bo_get_plane_count) F(bo_get_handle)

static struct {
#define MEMBER(name) __typeof__(&gbm_##name) name;
	FUNCTIONS(MEMBER)
#undef MEMBER
} gbm;

/* drm_fourcc.h comes with libdrm. */
#define MOD_LINEAR 0ULL
#define MOD_INVALID ((1ULL << 56) - 1)

int ph_gbm_load(char *why, size_t size)
{
	void *library = dlopen("libgbm.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		snprintf(why, size, "%s", dlerror());
		return -1;
	}
#define FIND(name)                                                                            \
	gbm.name = (__typeof__(gbm.name))dlsym(library, "gbm_" #name);                        \
	if (!gbm.name) {                                                                      \
		snprintf(why, size, "libgbm has no gbm_" #name);                              \
		return -1;                                                                    \
	}
	FUNCTIONS(FIND)
#undef FIND
	return 0;
}

struct ph_gbm_device *ph_gbm_open(int fd) { return (struct ph_gbm_device *)gbm.create_device(fd); }

void ph_gbm_close(struct ph_gbm_device *device) { gbm.device_destroy((struct gbm_device *)device); }

/* Of a call that should have set errno. */
static int reason(int otherwise) { return errno > 0 ? errno : otherwise; }

int ph_gbm_create(struct ph_gbm_device *device, uint32_t width, uint32_t height, uint32_t fourcc,
		  struct ph_gbm_picture *picture)
{
	struct gbm_bo *bo;
	int result;

	memset(picture, 0, sizeof *picture);
	errno = 0;
	/*
	 * Without GBM_BO_USE_WRITE: that asks for a dumb buffer, which render nodes do not have.
	 * gbm_bo_map takes all others too.
	 */
	bo = gbm.bo_create((struct gbm_device *)device, width, height, fourcc,
			   GBM_BO_USE_SCANOUT | GBM_BO_USE_LINEAR);
	if (!bo)
		return reason(ENOMEM);
	picture->bo = bo;
	picture->width = width;
	picture->height = height;
	picture->stride = gbm.bo_get_stride(bo);
	picture->offset = gbm.bo_get_offset(bo, 0);
	picture->handle = gbm.bo_get_handle(bo).u32;
	picture->modifier = gbm.bo_get_modifier(bo);
	/* A driver that knows no modifiers was asked for linear memory all the same. */
	if (picture->modifier == MOD_INVALID)
		picture->modifier = MOD_LINEAR;
	/* What is in it must be nobody's, and it must be one that can be written to. */
	result = gbm.bo_get_plane_count(bo) == 1 && picture->stride / 4 >= width
			 ? ph_gbm_write(picture, 0, 0, width, height, NULL, 0)
			 : EINVAL;
	if (result)
		ph_gbm_destroy(picture);
	return result;
}

void ph_gbm_destroy(struct ph_gbm_picture *picture)
{
	if (picture->bo)
		gbm.bo_destroy(picture->bo);
	picture->bo = NULL;
}

int ph_gbm_export(const struct ph_gbm_picture *picture)
{
	int fd;

	errno = 0;
	fd = gbm.bo_get_fd(picture->bo);
	return fd < 0 ? -reason(EIO) : fd;
}

int ph_gbm_write(const struct ph_gbm_picture *picture, uint32_t x, uint32_t y, uint32_t width,
		 uint32_t height, const void *rows, size_t stride)
{
	uint32_t pitch = 0;
	void *mapping = NULL;
	char *to;

	if (x > picture->width || width > picture->width - x || y > picture->height ||
	    height > picture->height - y)
		return EINVAL;
	if (!width || !height)
		return 0;
	errno = 0;
	to = gbm.bo_map(picture->bo, x, y, width, height, GBM_BO_TRANSFER_WRITE, &pitch, &mapping);
	if (!to)
		return reason(EIO);
	for (uint32_t row = 0; row < height; row++, to += pitch) {
		if (rows)
			memcpy(to, (const char *)rows + row * stride, (size_t)width * 4);
		else
			memset(to, 0, (size_t)width * 4);
	}
	gbm.bo_unmap(picture->bo, mapping);
	return 0;
}
