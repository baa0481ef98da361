/*
 * libvirglrenderer.so.1, loaded when it is asked for, so that a process which only starts others
 * has no part of it. All calls belong to the thread that called ph_virgl_init.
 *
 * The library mixes positive and negative error numbers: here every result is 0 or a positive one.
 */
#ifndef PH_VIRGL_H
#define PH_VIRGL_H
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* struct virgl_box, which virglrenderer.h only names. */
struct ph_virgl_box {
	uint32_t x, y, z, w, h, d;
};

/* struct virgl_renderer_resource_create_args. */
struct ph_virgl_shape {
	uint32_t handle, target, format, bind, width, height, depth;
	uint32_t array_size, last_level, nr_samples, flags;
};

/* 0, or -1 and the loader's words in why. */
int ph_virgl_load(char *why, size_t size);
/* 1 for 1.1.0 and later. */
int ph_virgl_is_recent(void);
/* drm: the descriptor of a render node, which the library gets, or -1 for none. */
int ph_virgl_init(int drm);
/* -1 where fences are seen only by asking. */
int ph_virgl_poll_fd(void);
void ph_virgl_poll(void);
/* The newest fence that has retired; all earlier ones have as well. */
uint32_t ph_virgl_retired(void);

/* Bytes of a capability set in its largest version; 0 if there is none. */
uint32_t ph_virgl_capset_size(uint32_t id, uint32_t *version);
void ph_virgl_fill_capset(uint32_t id, uint32_t version, void *bytes);

int ph_virgl_create_context(uint32_t id, uint32_t capset, const char *name, uint32_t length);
void ph_virgl_destroy_context(uint32_t id);
int ph_virgl_create_resource(const struct ph_virgl_shape *shape);
void ph_virgl_destroy_resource(uint32_t id);
void ph_virgl_attach(uint32_t context, uint32_t resource);
void ph_virgl_detach(uint32_t context, uint32_t resource);
/* The array stays the caller's, at its place, until it is detached. */
int ph_virgl_attach_iov(uint32_t resource, struct iovec *iov, uint32_t count);
void ph_virgl_detach_iov(uint32_t resource);
/* iov NULL: the resource's own. */
int ph_virgl_transfer(int to_host, uint32_t resource, uint32_t context, uint32_t level,
		      uint32_t stride, uint32_t layer_stride, struct ph_virgl_box box,
		      uint64_t offset, struct iovec *iov, int count);
int ph_virgl_submit(uint32_t context, const void *commands, uint32_t words);
int ph_virgl_fence(uint32_t number);
#endif
