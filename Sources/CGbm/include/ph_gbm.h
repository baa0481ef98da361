/*
 * libgbm.so.1, loaded when it is asked for: pictures in the memory of a GPU or of a display. All
 * calls belong to one thread.
 *
 * Pictures are linear, of one plane with 4 bytes a pixel; results are 0 or a positive error number.
 */
#ifndef PH_GBM_H
#define PH_GBM_H
#include <stddef.h>
#include <stdint.h>

/* struct gbm_device. */
struct ph_gbm_device;

struct ph_gbm_picture {
	/* struct gbm_bo, NULL for none. */
	void *bo;
	uint32_t width, height;
	/* Bytes from the start of the memory to the first row, and from row to row. */
	uint32_t offset, stride;
	/* DRM_FORMAT_MOD_*. */
	uint64_t modifier;
	/* GEM handle of the descriptor that the device was opened with. */
	uint32_t handle;
};

/* 0, or -1 and the loader's words in why. */
int ph_gbm_load(char *why, size_t size);
/* The descriptor stays the caller's, and open for as long as the device; NULL where nothing drives it. */
struct ph_gbm_device *ph_gbm_open(int fd);
void ph_gbm_close(struct ph_gbm_device *device);

int ph_gbm_create(struct ph_gbm_device *device, uint32_t width, uint32_t height, uint32_t fourcc,
		  struct ph_gbm_picture *picture);
void ph_gbm_destroy(struct ph_gbm_picture *picture);
/* A new dma-buf descriptor, or -errno. */
int ph_gbm_export(const struct ph_gbm_picture *picture);
/* Copies a box of pixels in; rows NULL: zeros. */
int ph_gbm_write(const struct ph_gbm_picture *picture, uint32_t x, uint32_t y, uint32_t width,
		 uint32_t height, const void *rows, size_t stride);
#endif
