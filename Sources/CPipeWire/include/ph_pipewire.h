/* Video sources in PipeWire whose memory is ours. All calls belong to one thread. */
#ifndef PH_PIPEWIRE_H
#define PH_PIPEWIRE_H

#include <stdint.h>

enum { PH_PW_MAX_DAMAGE = 16, PH_PW_MAX_BUFFERS = 64 };

/* Values of the argument "order": the bytes of a pixel in memory. */
enum ph_pw_order { PH_PW_BGRX, PH_PW_RGBX, PH_PW_XRGB, PH_PW_XBGR };

struct ph_pw;
struct ph_pw_node;

struct ph_pw_rect {
	int32_t x, y;
	uint32_t width, height;
};

/* What a picture is. */
struct ph_pw_shape {
	uint32_t order; /* enum ph_pw_order */
	uint32_t width, height, stride; /* pixels, pixels, bytes */
	uint32_t size; /* bytes of each memory */
};

/* Told by ph_pw_turn(), and by calls that change a node. */
struct ph_pw_callbacks {
	/* Somebody watches (1) or nobody does (0). */
	void (*streaming)(void *user, int on);
	/*
	 * The memory of buffer number `id`: a sealed memfd that stays the caller's as long as the
	 * node has the buffer. -1 where there is none.
	 */
	int (*memory)(void *user, uint32_t id, uint32_t *size);
	/* A buffer is not one of the node's any more. */
	void (*removed)(void *user, uint32_t id);
	/* A buffer that was queued is not read any more. */
	void (*released)(void *user, uint32_t id);
};

/* Prepares PipeWire's library; NULL and *error (errno) if that fails. */
struct ph_pw *ph_pw_new(int *error);
void ph_pw_free(struct ph_pw *pw);
/* Readable when ph_pw_turn() has something to do. */
int ph_pw_fd(struct ph_pw *pw);
void ph_pw_turn(struct ph_pw *pw);
/* Connects to the daemon that the environment names, or `remote`; -errno. */
int ph_pw_connect(struct ph_pw *pw, const char *remote);
/* Whether the connection is there: it ends when the daemon does. */
int ph_pw_is_connected(struct ph_pw *pw);
/* Ends the connection; its nodes must be gone. */
void ph_pw_disconnect(struct ph_pw *pw);

/* A node of media.class Video/Source with a media.role; NULL and *error. */
struct ph_pw_node *ph_pw_node_new(struct ph_pw *pw, const char *name, const char *description,
				  const char *role, struct ph_pw_shape shape,
				  const struct ph_pw_callbacks *callbacks, void *user, int *error);
void ph_pw_node_free(struct ph_pw_node *node);
/* Offers another shape, or the same one with other memory: the buffers are made anew. */
void ph_pw_node_reshape(struct ph_pw_node *node, struct ph_pw_shape shape);
/* Whether a buffer is there and nobody reads it. */
int ph_pw_node_is_free(struct ph_pw_node *node, uint32_t id);
/*
 * Gives a buffer to those who watch. offset: bytes from the start of its memory to the first
 * row; pts: nanoseconds of CLOCK_MONOTONIC. -errno.
 */
int ph_pw_node_queue(struct ph_pw_node *node, uint32_t id, uint32_t offset, uint32_t size,
		     int64_t pts, uint64_t sequence, const struct ph_pw_rect *damage, int count);
/* Has those who watch give back what they have read. */
void ph_pw_node_collect(struct ph_pw_node *node);

#endif
